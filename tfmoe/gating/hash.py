"""A gate without weights: the expert of a token is a hash of its id (Roller et al. 2021).

Axes: T tokens, E experts, V vocabulary.
"""

import heapq
from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import converts_to_other_runtime
from tfmoe.gating.gate import Gate
from tfmoe.ops.arguments import positive, random_seed

MASK = 2**32 - 1


@keras.saving.register_keras_serializable("tfmoe")
class Hash(Gate):
    """Hash gating: a fixed function of the token's id selects one expert, with the weight 1 (Roller
    et al. 2021).

    `y = E_hash(id)(x)`. The gate has no weights, no loss and no operations. It shows what a learned
    gate adds: here the context of a word has no effect on its expert.

    Paper: this gate is not in Shazeer et al. 2017.

    The *random* hash spreads ids evenly, but not tokens: the experts of frequent words have more.
    The *balanced* hash assigns ids to experts in order of frequency, each to the expert with the
    fewest tokens so far. Its load is equal up to the share of the most frequent words.

    A mixture with this gate needs the token ids as `gate_inputs`; models pass them. It cannot be a
    level of a hierarchical mixture.

    Args:
        vocabulary_size: V, for a balanced hash of ids that are sorted by frequency, as those of the
            vocabularies here: the count of id i is taken to be proportional to `1/(i + 1)` (Zipf's
            law). Ids from V on get the random hash.
        counts: `[V]`, the counts of the ids, for a balanced hash by these instead. Ids can then be
            in any order.
        seed: integer of the random hash. Copies of a gate in several layers have different hashes.

    Raises:
        ValueError: an argument is out of range, or both `vocabulary_size` and `counts` are given;
            in a call, Keras exports the model to ONNX or LiteRT.

    Example:
        >>> layer = MoE(num_experts=4, hidden_units=8, gate=Hash(vocabulary_size=100))
        >>> layer(tf.ones([2, 3, 5]), gate_inputs=tf.constant([[4, 9, 7], [4, 1, 0]])).shape
        TensorShape([2, 3, 5])
    """

    kernel_names = ()
    needs_token_ids = True
    num_selected = 1
    estimates_load = False

    def __init__(
        self,
        vocabulary_size: int | None = None,
        counts: Sequence[float] | None = None,
        seed: int = 0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if vocabulary_size is not None and counts is not None:
            raise ValueError(
                "counts must be None if vocabulary_size is given: they have a count for each id"
            )
        if vocabulary_size is not None:
            vocabulary_size = positive("vocabulary_size", vocabulary_size)
        self.vocabulary_size = vocabulary_size
        self.counts = None if counts is None else checked_counts(counts)
        self.seed = random_seed("seed", 0 if seed is None else seed)
        self.table = None

    def build(self, input_shape):
        super().build(input_shape)
        counts = self.counts
        if self.vocabulary_size is not None:
            counts = 1 / np.arange(1, self.vocabulary_size + 1)
        if counts is not None:
            self.table = balanced_experts(counts, self.num_experts)

    def route(self, inputs, training=False, groups=None):
        if converts_to_other_runtime():  # Keras would log an error and write an invalid file
            raise ValueError(
                "Hash cannot be exported to ONNX or LiteRT, which have no shifts of 64-bit "
                "integers: export a SavedModel, or train with another gate"
            )
        experts = random_experts(inputs, self.num_experts, self.seed)
        if self.table is not None:
            size = len(self.table)
            known = tf.gather(tf.constant(self.table), tf.clip_by_value(inputs, 0, size - 1))
            experts = tf.where((inputs >= 0) & (inputs < size), known, experts)
        weights = tf.ones([tf.size(experts), 1], self.variable_dtype)
        return self.routing_of_tokens(experts[:, None], weights, groups)

    def kept_for_backward(self, input_dim):
        return 0

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "counts": self.counts,
            "seed": self.seed,
        }


def checked_counts(counts):
    """The counts as a list of numbers; a `ValueError` if they are none."""
    array = np.asarray(counts)
    is_valid = array.ndim == 1 and array.size and array.dtype.kind in "iuf"
    if not (is_valid and np.all(np.isfinite(array)) and np.all(array >= 0)):
        raise ValueError(
            "counts must be a list of numbers of at least 0, the count of each id, got "
            f"{str(counts)[:50]}"
        )
    return array.tolist()


def balanced_experts(counts, num_experts):
    """Assigns ids to experts so that their loads are about equal: the ids in descending order of
    their counts, each to the expert with the smallest sum of counts, the lower index in a tie.

    Args:
        counts: `[V]` numbers.
        num_experts: E.

    Returns:
        `[V]` int32 NumPy array.
    """
    counts = np.asarray(counts, float)
    loads = [(0.0, expert) for expert in range(num_experts)]
    experts = np.empty(len(counts), np.int32)
    for token_id in np.argsort(-counts, kind="stable"):
        load, expert = loads[0]
        experts[token_id] = expert
        heapq.heapreplace(loads, (load + counts[token_id], expert))
    return experts


def random_experts(ids, num_experts, seed):
    """A hash of ids that is the same on every machine: the last mixing step of MurmurHash3.

    Args:
        ids: `[T]` int32.
        num_experts: E.
        seed: an integer of at least 0.

    Returns:
        `[T]` int32, in 0..E-1.
    """
    offset = (seed + 1) * 0x9E3779B9 & MASK
    values = tf.bitwise.bitwise_and(tf.cast(ids, tf.int64) + offset, MASK)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        values = tf.bitwise.bitwise_xor(values, tf.bitwise.right_shift(values, shift))
        values = tf.bitwise.bitwise_and(values * factor, MASK)
    return tf.cast(values % num_experts, tf.int32)
