"""Soft mixture of experts: experts compute weighted means of tokens (Puigcerver et al. 2023).

Axes: B batch, S steps, D model, N outputs, n experts, p slots of an expert.
"""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.layers.block import Block, Kept
from tfmoe.layers.expert_metrics import LayerMetrics, Mode, metrics_mode, mode_of
from tfmoe.layers.mixture_layer import HINTS, ExpertLayer, automatic_name
from tfmoe.layers.positions import flat_mask
from tfmoe.layers.routed_experts import RoutedExperts
from tfmoe.layers.sorted_rows import run_sorted
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Constraint, Initializer, Regularizer

METRICS = ("dispatch_max", "combine_max", "slot_similarity")
EPSILON = 1e-6  # added to squared norms


SOFT_HINTS = {
    **HINTS,
    "gate": "it mixes all tokens, without a gate; for a gate use MoE(…, gate={0!r})",
    "k": "it mixes all tokens; for k experts per token use MoE(…, gate=NoisyTopK(k={0!r}))",
    "slots": "it is slots_per_expert={0!r}",
}


@keras.saving.register_keras_serializable("tfmoe")
class SoftMoE(ExpertLayer, Block):
    """Soft mixture of experts: `Y = C·E(Pᵀ·X)` for the tokens X `[S, D]` of a sequence (Puigcerver
    et al. 2023, "From Sparse to Soft Mixtures of Experts").

    The logits of tokens and slots are `L = s·X̂·Φ̂`: X̂ has the rows of X divided by their norms,
    Φ̂ the columns of the weights Φ `[D, n·p]` divided by theirs, and s is a trained scale. The
    dispatch weights `P = softmax(L)` over tokens make each slot a weighted mean of tokens. Each
    expert computes p slots. The combine weights `C = softmax(L)` over slots make each output a
    weighted mean of the results of all slots. Nothing is selected or dropped, there is no balancing
    loss, and all weights have gradients.

    Every output depends on all tokens of its sequence. So the encoder of a translation can have the
    layer, but no model that predicts the next word.

    Args:
        num_experts: n.
        hidden_units: width of an expert's hidden layers.
        slots_per_expert: p. A sequence costs n·p rows of experts, whatever its length; the paper
            has about as many slots as tokens.
        depth: number of hidden layers of an expert.
        activation: activation of the hidden layers; must be elementwise and have no weights.
        use_bias: whether experts have biases.
        recompute: whether the backward pass computes hidden activations again, which saves memory.
        metrics: `"summary"`, `"all"` or `None`: which of the metrics below `fit` and `evaluate`
            report.
        kernel_initializer: initializer of each expert's kernels, as for a dense layer.
        gated: whether every hidden layer of an expert is gated (SwiGLU, GEGLU), as for `MoE`.
        expert_dropout: dropout rate of the hidden activations of experts, as for `MoE`.
        output_units: width of the outputs; `None` for the width of the inputs.
        bias_initializer: initializer of each expert's biases.
        kernel_regularizer: regularizer of each expert's kernels, as for a dense layer. The terms of
            all experts are added up.
        bias_regularizer: the same for biases.
        kernel_constraint: constraint of each expert's kernels, as for a dense layer.
        bias_constraint: the same for biases.
        name: the layer's name, the prefix of the metrics; `None` for `soft_moe`, `soft_moe_1`, …

    Call arguments:
        inputs: `[B, S, D]` of any numeric type.
        mask: `[B, S]` bool, `False` for padding: padding has weight 0 in all slots, and its outputs
            are 0.
        training: whether the metrics are updated in a plain call, and experts apply dropout.

    Returns:
        `[B, S, D]`, or `[B, S, output_units]`, in the layer's compute dtype.

    Metrics of `fit` and `evaluate`, averaged over the batches of an epoch: `dispatch_max` (the
    largest weight of a token in a slot, mean over slots), `combine_max` (the largest weight of a
    slot in an output, mean over tokens) and `slot_similarity` (the cosine of two columns of Φ, mean
    over all pairs). With `metrics="all"` they are prefixed with the layer's name. With `"summary"`
    there is one set for all `SoftMoE` of the model, with the largest values and the prefix
    `soft_moe`. `None` measures nothing; `True` means `"all"`, `False` `None`.

    Raises:
        ValueError: an argument is out of range; in `step`.

    Example:
        >>> layer = SoftMoE(num_experts=4, hidden_units=8, slots_per_expert=2)
        >>> layer(np.ones((2, 8, 16))).shape
        TensorShape([2, 8, 16])
    """

    reads_later = True

    hints = SOFT_HINTS

    def __init__(
        self,
        num_experts: int,
        hidden_units: int,
        slots_per_expert: int = 1,
        depth: int = 1,
        activation: Activation = "relu",
        use_bias: bool = False,
        recompute: bool = False,
        metrics: Mode = "summary",
        kernel_initializer: Initializer = "glorot_uniform",
        gated: bool = False,
        expert_dropout: float = 0.0,
        output_units: int | None = None,
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(name=name or automatic_name("soft_moe"), **kwargs)
        self.supports_masking = True
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.slots_per_expert = arguments.positive("slots_per_expert", slots_per_expert)
        self.experts = RoutedExperts(
            num_experts,
            hidden_units,
            depth=depth,
            activation=activation,
            use_bias=use_bias,
            recompute=recompute,
            kernel_initializer=kernel_initializer,
            gated=gated,
            expert_dropout=expert_dropout,
            output_units=output_units,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            name="experts",
            dtype=self.dtype_policy,
        )
        mode, self.expert_metrics = metrics_mode(metrics), None
        if mode is not None:
            summary = "soft_moe" if mode == "summary" else None
            self.expert_metrics = LayerMetrics(self, METRICS, summary)

    @property
    def num_slots(self) -> int:
        """n·p, the slots of a sequence."""
        return self.num_experts * self.slots_per_expert

    def build(self, input_shape):
        width = arguments.last_dimension(f"inputs of {self.name}", input_shape, 3)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: width})
        # Under mixed precision the logits are computed in the dtype of the variables.
        self.slot_kernel = self.add_weight(
            name="slot_kernel",
            shape=(width, self.num_slots),
            initializer="lecun_normal",
            autocast=False,
        )
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", autocast=False)
        self.experts.build((None, width))

    def call(self, inputs, mask=None, training=False):
        inputs = self.dense_inputs(inputs)
        if mask is not None:
            mask = tf.reshape(flat_mask(mask, inputs), tf.shape(inputs)[:2])
        dispatch, combine = self._weights(inputs, mask)
        self._measure(dispatch, combine, mask, training)
        slots = tf.matmul(tf.cast(dispatch, inputs.dtype), inputs)
        outputs = self._run_experts(slots, training)
        return tf.matmul(tf.cast(combine, inputs.dtype), outputs)

    def _weights(self, inputs, mask):
        """The weights of tokens in slots, `[B, n·p, S]`, and of slots in outputs, `[B, S, n·p]`."""
        tokens = unit_norm(tf.cast(inputs, self.variable_dtype), axis=-1)
        kernel = unit_norm(tf.convert_to_tensor(self.slot_kernel), axis=0)
        logits = tf.matmul(tokens, tf.convert_to_tensor(self.scale) * kernel)
        by_slot = tf.transpose(logits, [0, 2, 1])
        if mask is None:
            return tf.nn.softmax(by_slot), tf.nn.softmax(logits)
        dispatch = tf.nn.softmax(tf.where(mask[:, None, :], by_slot, by_slot.dtype.min))
        zero = tf.zeros([], logits.dtype)
        return (
            tf.where(mask[:, None, :], dispatch, zero),
            tf.where(mask[:, :, None], tf.nn.softmax(logits), zero),
        )

    def _run_experts(self, slots, training):
        """Computes each slot with its expert, `[B, n·p, N]`."""
        by_slot = tf.transpose(slots, [1, 0, 2])
        num_rows = self.slots_per_expert * tf.shape(slots)[0]
        rows = tf.reshape(by_slot, [-1, slots.shape[-1]])
        counts = tf.fill([self.num_experts], num_rows)
        rows = run_sorted(self.experts, rows, counts, num_rows, training)
        shape = tf.concat([tf.shape(by_slot)[:2], [rows.shape[1]]], axis=0)
        return tf.transpose(tf.reshape(rows, shape), [1, 0, 2])

    def _measure(self, dispatch, combine, mask, training):
        """Updates the metrics, with the means over the global batch."""
        if self.expert_metrics is None or not self.expert_metrics.measures_now(training):
            return
        real = tf.ones(tf.shape(combine)[:2], tf.bool) if mask is None else mask
        num_sequences = tf.math.count_nonzero(tf.reduce_any(real, axis=1), dtype=tf.float32)
        dispatch_max, num_slots, combine_max, num_tokens = collectives.all_reduce_sums(
            sum_of_maxima(dispatch),
            num_sequences * self.num_slots,
            sum_of_maxima(combine),
            tf.math.count_nonzero(real, dtype=tf.float32),
        )
        kernel = unit_norm(tf.cast(self.slot_kernel, tf.float32), axis=0)
        # Σ_i Σ_j Φ̂_i·Φ̂_j = |Σ_i Φ̂_i|², without the pairs of a column with itself.
        similarity = tf.reduce_sum(tf.reduce_sum(kernel, axis=1) ** 2) - tf.reduce_sum(kernel**2)
        num_pairs = float(self.num_slots * (self.num_slots - 1))
        self.expert_metrics.update_state(
            {
                "dispatch_max": tf.math.divide_no_nan(dispatch_max, num_slots),
                "combine_max": tf.math.divide_no_nan(combine_max, num_tokens),
                "slot_similarity": tf.math.divide_no_nan(similarity, num_pairs),
            }
        )

    def step(self, inputs, state):
        """Raises a `ValueError`: an output depends on all tokens of its sequence."""
        raise ValueError(
            f"{self.name} cannot compute single steps: every output of a SoftMoE depends on all "
            "tokens of its sequence, later ones too; use it in an encoder, or use MoE"
        )

    num_selected = num_sent = 1  # for as many slots as tokens

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token of a sequence with as many tokens as slots: one row of an
        expert, and the products with `[S, n·p]` matrices: logits, slots and outputs.
        """
        products = (2 * input_dim + self.experts.output_width(input_dim)) * self.num_slots
        return self.experts.ops_per_row(input_dim) + products

    def gate_ops_per_timestep(self, input_dim):
        """Multiply-adds of the logits."""
        return input_dim * self.num_slots

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: the token, its unit vector and its weights in slots and outputs,
        `2·D + 2·n·p` values; and for `n·p / steps` slots (1 if `steps` is 0) the inputs and outputs
        of experts, and their hidden activations, with dropout one byte more for each.
        """
        size = tf.as_dtype(self.compute_dtype).size
        rows = self.num_slots / steps if steps else 1
        weights = tf.as_dtype(self.variable_dtype).size * (input_dim + 2 * self.num_slots)
        always = weights + size * (input_dim + round(rows * sum(self.row_widths(input_dim))))
        always += round(rows * self.experts.dropout_per_row())
        hidden = size * round(rows * self.experts.hidden_per_row())
        return Kept(always, hidden, self.experts.recompute)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.experts.output_width(input_shape[-1]))

    def get_config(self):
        return {
            **super().get_config(),
            **self.experts.own_config(),
            "slots_per_expert": self.slots_per_expert,
            "metrics": mode_of(self.expert_metrics),
        }


def unit_norm(x, axis):
    """Divides vectors along an axis by their norms `√(Σ x² + ε)`."""
    return x * tf.math.rsqrt(tf.reduce_sum(x**2, axis=axis, keepdims=True) + EPSILON)


def sum_of_maxima(weights):
    """The sum of the maxima over the last axis, which may be empty, in float32."""
    maxima = tf.reduce_max(tf.cast(weights, tf.float32), axis=-1)
    return tf.reduce_sum(tf.maximum(maxima, 0))
