"""What a trained mixture of experts does: which experts it uses, and for which words.

Axes: T real tokens, K selected experts per token, E experts, V vocabulary.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmoe.layers import MoE
from tfmoe.models.word_predictor import PADDING


class ExpertUse(NamedTuple):
    """How a mixture uses its experts on some text, at evaluation.

    Attributes:
        load: `[E]` int64, tokens that each expert received.
        importance: `[E]` float64, sum of its gate values.
        words: `[E, V]` int64, how often each word was the token that the expert received.
    """

    load: np.ndarray
    importance: np.ndarray
    words: np.ndarray

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
        mine, all_ = self.words[expert], np.maximum(self.words.sum(axis=0), 1)
        score = np.where(mine >= at_least, mine / all_ * np.sqrt(mine), 0)
        best = np.argsort(-score, kind="stable")[:number]
        return [int(word) for word in best if score[word] > 0]


def expert_use(model, batches):
    """Counts how the mixtures of a language model use their experts.

    Args:
        model: a built `LanguageModel`.
        batches: dataset or list of `(tokens, targets)`, `[B, S]` int32.

    Returns:
        `{name of the layer: ExpertUse}`; empty if the model has no mixture.
    """
    mixtures = [block.layer for block in model.blocks if isinstance(block.layer, MoE)]

    @tf.function(reduce_retracing=True)
    def routings(tokens):
        mask = tf.not_equal(tokens, PADDING)
        inputs = zip(model.blocks, model.features_by_block(tokens), strict=False)
        return [
            block.layer.route(features, mask=mask).assignments()
            for block, features in inputs
            if isinstance(block.layer, MoE)
        ]

    uses = {
        layer.name: ExpertUse(
            np.zeros(layer.num_experts, np.int64),
            np.zeros(layer.num_experts),
            np.zeros((layer.num_experts, model.vocabulary_size), np.int64),
        )
        for layer in mixtures
    }
    for tokens, _ in batches:
        words = np.asarray(tokens)[np.asarray(tokens) != PADDING]
        for use, assignments in zip(uses.values(), routings(tokens), strict=True):
            places, experts, gates = (each.numpy() for each in assignments)
            np.add.at(use.load, experts, 1)
            np.add.at(use.importance, experts, gates)
            np.add.at(use.words, (experts, words[places]), 1)
    return uses
