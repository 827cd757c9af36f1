"""How much a mixture uses each of its experts, and for which words.

Axes: T real tokens, E experts, V vocabulary.
"""

from typing import NamedTuple

import numpy as np

from tfmoe.inspection.information import entropy
from tfmoe.inspection.joint_counts import JointCounts, joint_counts
from tfmoe.inspection.routing import route_text


class ExpertUse(NamedTuple):
    """How a mixture uses its experts on some text, at evaluation.

    Attributes:
        load: `[E]` int64, tokens that each expert received.
        importance: `[E]` float64, sum of its gate values.
        words: `JointCounts` of expert and word: how often each word was the token that the expert
            received.
        gate_entropy: mean over the tokens of the entropy of their gate values, in bits: 0 if every
            token goes to one expert alone, log2 k if its k experts count alike.
    """

    load: np.ndarray
    importance: np.ndarray
    words: JointCounts
    gate_entropy: float = float("nan")

    def summary(self):
        """How evenly the experts are used: a dictionary of numbers.

        `cv_importance` and `cv_load` (coefficients of variation), `max_over_mean_load`,
        `max_over_mean_importance`, `unused_experts` (how many received no token), `load_entropy`
        (bits; log2 E if all are used alike) and `gate_entropy` (bits, see above).
        """
        load, importance = self.load, self.importance
        return {
            "cv_importance": variation(importance),
            "cv_load": variation(load),
            "max_over_mean_load": float(over_mean(load).max()),
            "max_over_mean_importance": float(over_mean(importance).max()),
            "unused_experts": int((load == 0).sum()),
            "load_entropy": entropy(load),
            "gate_entropy": self.gate_entropy,
        }

    def characteristic_words(self, expert, number=6, at_least=5):
        """Ids of the words that an expert receives most often compared with their frequency.

        Args:
            expert: its id.
            number: of words to return at most.
            at_least: how often the expert must have received a word.

        Returns:
            List of word ids, the most characteristic first: by the share of all its occurrences
            that went to this expert, weighted by the square root of their number.
        """
        words, mine = self.words.row(expert)
        enough = mine >= at_least
        words, mine = words[enough], mine[enough]
        if not len(words):
            return []
        every = np.bincount(self.words.columns, self.words.counts)[words]
        best = np.argsort(-mine / every * np.sqrt(mine), kind="stable")[:number]
        return words[best].tolist()


def expert_use(model, batches, tokens=None):
    """Counts how the mixtures of a model use their experts for words. For inputs that are no text
    take `use_of_experts` of what `route_batches` gives.

    Args:
        model, batches, tokens: as for `route_text`.

    Returns:
        `{name of the layer: ExpertUse}`; empty if the model has no mixture.
    """
    routings = route_text(model, batches, tokens)
    return {name: use_of_experts(routed) for name, routed in routings.items()}


def use_of_experts(routed):
    """The `ExpertUse` of a `RoutedText`."""
    num_experts = routed.num_experts
    shares = routed.shares
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(shares > 0, -shares * np.log2(shares), 0)
    routed_tokens = len(np.unique(routed.places))
    return ExpertUse(
        np.bincount(routed.experts, minlength=num_experts),
        np.bincount(routed.experts, routed.gates, num_experts),
        joint_counts(
            routed.experts, routed.tokens[routed.places], int(routed.tokens.max(initial=0)) + 1
        ),
        float(bits.sum() / routed_tokens) if routed_tokens else float("nan"),
    )


def variation(x):
    """The coefficient of variation of an array: 0 where its mean is."""
    mean = x.mean()
    return float(x.std() / mean) if mean else 0.0


def over_mean(x):
    """An array over its mean; 0 where that is 0."""
    mean = x.mean()
    return x / mean if mean else np.zeros(len(x))
