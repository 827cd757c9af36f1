"""Strictly balanced gating (App. F): in training every expert takes equally many examples.

Axes: T tokens, E experts, D model, G groups (a stack of gates; 1 for a single one), N rows of a
group, C rows that an expert takes, A pairs of a token and an expert.
"""

import math

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.candidates import taken_of_candidates
from tfmoe.gating.base import Gate, PairSelection, measures_of_use, small_random
from tfmoe.ops.dispatch import Pairs
from tfmoe.ops.routing import pairs_of_mask, top_rows_of_experts


@keras.saving.register_keras_serializable("tfmoe")
class Batchwise(Gate):
    """`G(x)_i = G_σ(x)_i·M_i / Σ_j G_σ(x)_j·M_j` with `G_σ = softmax(x·W_g)` (eq 15-16).

    In training M is the batchwise mask (eq 18): every expert takes its `m = ⌈k·T/E⌉` best tokens of
    the batch, among equals the earlier ones. A token can have any number of experts, k on average;
    one that no expert took gets 0 from the mixture.

    At inference M is the threshold mask (eq 19): `M_i = 1 if G_σ(x)_i > T_i`, so that what a token
    gets does not depend on the rest of its batch. The thresholds are trained by `L_batchwise` (eq
    20) alone, and it trains nothing else.

    Paper: `L_batchwise` is a sum over the batch; here it is the mean over its tokens (in a
    secondary gate over those that its groups took), so that its gradient, which counts in a clipped
    global norm, does not grow with the batch. The variable is log T, since the values of G_σ are of
    the order 1/E, too small for the steps of an optimizer; it moves by the gradient with respect to
    T, which is m less the number of tokens over the threshold. Thresholds start at 1/E. `W_g`
    starts at small random values: with zeros all experts would take the same tokens.

    Args:
        k: mean number of experts per token, 1 <= k <= num_experts.
        importance_weight: w_importance of eq 7. The load needs no loss: it is exactly equal.

    Metrics of the mixture: in training `threshold_precision` and `threshold_recall`, the share of
    the threshold mask that is in the batchwise mask, and the other way round; `experts_per_token`
    and `unrouted` (share of tokens without an expert) by the thresholds, as at inference; with
    groups these two at inference only. What is not measured is NaN.

    Raises:
        ValueError: if k is out of its range.

    Example:
        >>> moe = tfmoe.layers.MoE(num_experts=32, hidden_units=2048, gate=Batchwise(k=4))
    """

    kernel_names = ("gate_kernel",)
    selects_pairs = True
    METRICS = ("threshold_precision", "threshold_recall", "experts_per_token", "unrouted")

    def __init__(self, k=4, importance_weight=0.0, **kwargs):
        super().__init__(importance_weight=importance_weight, **kwargs)
        self.k = self.checked_k(k)

    @property
    def num_selected(self):
        return self.k  # on average

    def kernel_initializer(self):
        return small_random()

    def build(self, input_shape):
        super().build(input_shape)
        stack = () if self.num_groups is None else (self.num_groups,)
        self.log_thresholds = self.add_weight(
            name="log_thresholds",
            shape=(*stack, self.num_experts),
            initializer=keras.initializers.Constant(-math.log(self.num_experts)),
        )

    @property
    def thresholds(self):
        """T of eq 19: `[E]`, or `[G, E]` for a stack of gates."""
        return tf.exp(tf.convert_to_tensor(self.log_thresholds))

    def select(self, inputs, training=False, group_sizes=None):
        """Selects tokens for each expert, or by its threshold.

        Args:
            inputs: `[T, D]`; for a stack of gates in training `[G, N, D]`, else `[T, D]` sorted by
                group.
            training: whether by the batchwise mask.
            group_sizes: as for every gate; not needed in training.

        Returns:
            A `PairSelection`; tokens are numbered through the groups, experts too.
        """
        if training:
            return self._select_best(inputs)
        return self._select_over_thresholds(inputs, group_sizes)

    def _select_best(self, inputs):
        probability = tf.nn.softmax(self.logits("gate_kernel", inputs))
        if self.num_groups is None:
            probability = probability[None]
        num_groups, num_rows = self.num_local_groups, tf.shape(probability)[1]
        num_tokens = num_groups * num_rows
        if self.num_groups is None and collectives.num_replicas() > 1:
            taken, tokens, counts = self._best_of_all_replicas(probability)
        else:
            num_taken = -(-self.k * num_rows // self.num_experts)
            taken, rows = top_rows_of_experts(probability, num_taken)  # [G, E, C]
            first = tf.range(num_groups) * num_rows
            shape = [num_groups * self.num_experts, num_taken]
            taken = tf.reshape(taken, shape)
            tokens = tf.reshape(rows + first[:, None, None], shape)
            counts = tf.fill(shape[:1], num_taken)
        gates = renormalised(taken, tokens, num_tokens)
        loss, measures = self._compare_masks(probability, taken, counts)
        return PairSelection(Pairs(tokens, counts, num_tokens), gates, loss, measures)

    def _best_of_all_replicas(self, probability):
        """What each expert takes of this replica's tokens: its best are those of the global batch.

        Args:
            probability: `[1, T, E]`.

        Returns:
            Of the pairs, by expert: probability `[A]` and token `[A]`; `[E]` int32, the number of
            pairs of each expert.
        """
        num_tokens = collectives.all_gather(tf.shape(probability)[1])  # [R]
        num_taken = -(-self.k * tf.reduce_sum(num_tokens) // self.num_experts)
        num_candidates = tf.minimum(num_taken, tf.reduce_max(num_tokens))
        own = tf.minimum(num_candidates, tf.shape(probability)[1])
        best, tokens = (each[0] for each in top_rows_of_experts(probability, own))  # [E, ≤ C]
        missing = [[0, 0], [0, num_candidates - own]]
        counts = taken_of_candidates(
            tf.pad(tf.stop_gradient(best), missing, constant_values=-1), num_taken
        )
        mask = tf.sequence_mask(counts, own)
        return tf.boolean_mask(best, mask), tf.boolean_mask(tokens, mask), counts

    def _compare_masks(self, probability, taken, counts):
        """`L_batchwise` and how far the two masks agree.

        Args:
            probability: `[G, N, E]` G_σ.
            taken: those of them that the experts took, sorted by expert.
            counts: `[G·E]` int32, how many each took.
        """
        probability, taken = (
            tf.stop_gradient(probability),
            tf.stop_gradient(tf.reshape(taken, [-1])),
        )
        log_thresholds = tf.reshape(self.log_thresholds, [-1, self.num_experts])
        # exp(log T), with 1 for its derivative.
        thresholds = log_thresholds + tf.stop_gradient(tf.exp(log_thresholds) - log_thresholds)
        excess = probability - thresholds[:, None, :]
        of_taken = tf.repeat(tf.reshape(thresholds, [-1]), counts)
        taken_excess = taken - tf.ensure_shape(of_taken, taken.shape)
        dtype = probability.dtype
        total, num_tokens, over, both, num_taken = collectives.all_reduce_sums(
            # Σ (M_threshold - M_batchwise)·(G_σ - T); M_threshold·(G_σ - T) = relu(G_σ - T).
            tf.reduce_sum(tf.nn.relu(excess)) - tf.reduce_sum(taken_excess),
            tf.cast(tf.size(probability) // self.num_experts, dtype),
            count_positive(excess),
            count_positive(taken_excess),
            tf.cast(tf.size(taken), dtype),
        )
        measures = {
            "threshold_precision": tf.math.divide_no_nan(both, over),
            "threshold_recall": tf.math.divide_no_nan(both, num_taken),
        }
        if self.num_groups is None:  # else the tokens of a level are not those of the mixture
            measures |= measures_of_use(tf.math.count_nonzero(excess > 0, axis=2))
        return tf.math.divide_no_nan(total, num_tokens), measures

    def _select_over_thresholds(self, inputs, group_sizes):
        probability = tf.nn.softmax(self.logits("gate_kernel", inputs, group_sizes))
        num_tokens = tf.shape(probability)[0]
        thresholds, first_expert = self.thresholds, 0
        if self.num_groups is not None:
            group = tf.repeat(tf.range(self.num_local_groups), group_sizes)
            thresholds = tf.gather(thresholds, group)
            first_expert = group * self.num_experts
        num_experts = self.num_local_groups * self.num_experts
        pairs, places = pairs_of_mask(probability > thresholds, first_expert, num_experts)
        gates = renormalised(tf.gather_nd(probability, places), pairs.tokens, num_tokens)
        return PairSelection(pairs, gates)

    def parameter_count(self, input_dim):
        thresholds = (self.num_groups or 1) * self.num_experts
        return super().parameter_count(input_dim) + thresholds

    def get_config(self):
        return {**super().get_config(), "k": self.k}


def count_positive(x):
    """How many elements of `x` are over 0, in its type."""
    return tf.reduce_sum(tf.cast(x > 0, x.dtype))


def renormalised(probability, tokens, num_tokens):
    """Divides the probability of each pair by the sum over the pairs of its token (eq 16).

    Args:
        probability: `[...]` of each pair.
        tokens: `[...]` int32, the token of each pair.
        num_tokens: T.
    """
    total = tf.math.unsorted_segment_sum(probability, tokens, num_tokens)
    return tf.math.divide_no_nan(probability, tf.gather(total, tokens))
