"""The use of a mixture's experts: load, importance and words.

Axes: T real tokens, E experts, V vocabulary.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np

from tfmoe.inspection.information import entropy
from tfmoe.inspection.joint_counts import JointCounts, joint_counts
from tfmoe.inspection.routing import RoutedText, route_text


class ExpertUse(NamedTuple):
    """The use of a mixture's experts on a text, in inference mode.

    Attributes:
        load: `[E]` int64, number of tokens that each expert received.
        importance: `[E]` float64, sum of each expert's gate values.
        words: `JointCounts` of experts and words: how often an expert received a word.
        gate_entropy: mean entropy of a token's gate values, in bits: 0 if every token has one
            expert, log2 k if it has k experts with equal gate values.
    """

    load: np.ndarray
    importance: np.ndarray
    words: JointCounts
    gate_entropy: float = float("nan")

    def summary(self) -> dict[str, float]:
        """Measures of balance.

        Returns:
            `cv_importance` and `cv_load` (coefficients of variation), `max_over_mean_load`,
            `max_over_mean_importance`, `unused_experts` (number of experts that received no token),
            `load_entropy` (in bits; log2 E for equal loads) and `gate_entropy` (in bits).
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

    def characteristic_words(self, expert: int, number: int = 6, at_least: int = 5) -> list[int]:
        """The words that an expert receives most often relative to their frequency.

        Args:
            expert: id of the expert.
            number: maximum number of words.
            at_least: minimum number of times that the expert received the word.

        Returns:
            Word ids, most characteristic first. Words are ranked by the share of their occurrences
            that the expert received, times the square root of the number received.
        """
        words, received = self.words.row(expert)
        frequent = received >= at_least
        words, received = words[frequent], received[frequent]
        if not len(words):
            return []
        total = np.bincount(self.words.columns, self.words.counts)[words]
        best = np.argsort(-received / total * np.sqrt(received), kind="stable")[:number]
        return words[best].tolist()


def expert_use(
    model: keras.Model, batches: Iterable, tokens: Callable | keras.Layer | None = None
) -> dict[str, ExpertUse]:
    """Measures the use of experts in all mixtures of a model on a text.

    For other inputs than text, apply `use_of_experts` to the output of `route_batches`.

    Args:
        model: a built Keras model, see `route_text`.
        batches: batches of token ids, see `route_text`.
        tokens: function or layer that returns the token ids of a mixture, see `route_text`.

    Returns:
        `{name of the layer: ExpertUse}`, empty if the model has no mixture.

    Raises:
        ValueError: if the text cannot be routed, see `route_text`.
    """
    routings = route_text(model, batches, tokens)
    return {name: use_of_experts(routed) for name, routed in routings.items()}


def use_of_experts(routed: RoutedText) -> ExpertUse:
    """Measures the use of experts in a routing.

    Args:
        routed: a `RoutedText`.
    """
    num_experts = routed.num_experts
    shares = routed.shares
    with np.errstate(divide="ignore", invalid="ignore"):
        bits = np.where(shares > 0, -shares * np.log2(shares), 0)
    num_routed = len(np.unique(routed.places))
    return ExpertUse(
        np.bincount(routed.experts, minlength=num_experts),
        np.bincount(routed.experts, routed.gates, num_experts),
        joint_counts(
            routed.experts, routed.tokens[routed.places], int(routed.tokens.max(initial=0)) + 1
        ),
        float(bits.sum() / num_routed) if num_routed else float("nan"),
    )


def variation(x):
    """The coefficient of variation of an array; 0 if the mean is 0."""
    mean = x.mean()
    return float(x.std() / mean) if mean else 0.0


def over_mean(x: np.ndarray) -> np.ndarray:
    """Divides an array by its mean.

    Args:
        x: `[E]`, such as the loads of experts.

    Returns:
        `[E]` float64; zeros if the mean is 0.
    """
    mean = x.mean()
    return x / mean if mean else np.zeros(len(x))
