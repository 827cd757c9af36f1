"""A stack of feed-forward networks, one per expert.

Axes: E experts, A rows (assignments), D model, H hidden, N outputs.
"""

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import in_recompute_grad
from tfmoe.layers.initializers import per_expert
from tfmoe.layers.portable_activations import portable
from tfmoe.layers.stack_penalties import penalties
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Constraint, Initializer, Regularizer
from tfmoe.ops.expert_dropout import NO_DROPOUT, draw_dropout
from tfmoe.ops.expert_matmul import equal_expert_ffn, expert_ffn, static_expert_ffn
from tfmoe.ops.expert_network import gated as gated_activation
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class Experts(keras.layers.Layer):
    """E feed-forward networks `D → H → … → H → N`; each row is computed by one of them (App. C).

    The paper's experts have one hidden layer with ReLU and no biases. The layer does not route:
    rows arrive sorted by expert. `MoE` adds the gate.

    Gated experts (Shazeer 2020, "GLU Variants Improve Transformer") compute a hidden layer as
    `activation(x · W_gate) * (x · W_up)`. The kernel of a hidden layer holds both matrices:
    `kernel_0` is `[E, D, 2H]`, with `W_gate` in columns 0 to H-1 and `W_up` in H to 2H-1.

    Args:
        num_experts: E.
        hidden_units: H, width of the hidden layers.
        depth: number of hidden layers; 1 in the paper.
        activation: activation of the hidden layers; must be elementwise and have no weights.
        use_bias: whether every layer has a bias.
        recompute: whether the backward pass computes the hidden activations again, instead of
            keeping them (App. D).
        kernel_initializer: initializer of each expert's kernels, as for a dense layer: fan-in and
            fan-out are those of one expert.
        gated: whether every hidden layer is gated; with `activation="silu"` experts are SwiGLU
            networks, with `"gelu"` GEGLU networks.
        expert_dropout: the probability that a hidden activation is dropped in training, `0 <=
            expert_dropout < 1` (Fedus et al. 2021, "Switch Transformers"). Kept activations are
            divided by `1 - expert_dropout`. Keras' global seed determines the draws
            (`keras.utils.set_random_seed`).
        output_units: N, width of the outputs; `None` for D.
        bias_initializer: initializer of each expert's biases.
        kernel_regularizer: regularizer of each expert's kernels, as for a dense layer; the terms of
            all experts are added up. For a gated layer, of `W_gate` and of `W_up`.
        bias_regularizer: the same for biases.
        kernel_constraint: constraint of each expert's kernels, as for a dense layer. For a gated
            layer, of `W_gate` and of `W_up`.
        bias_constraint: the same for biases.

    Call arguments:
        rows: `[A, D]`, sorted by expert; or `[E, C, D]`, the same number of rows for each expert.
        counts: `[E]` int32, the rows of each expert; not used for `[E, C, D]`. Rows from
            `sum(counts)` on belong to no expert and give 0.
        training: whether hidden activations are kept for the backward pass, and dropout applied.

    Returns:
        The outputs, `[A, N]` or `[E, C, N]`.

    Example:
        >>> experts = Experts(num_experts=2, hidden_units=8)
        >>> experts(tf.ones([5, 4]), counts=tf.constant([3, 2])).shape
        TensorShape([5, 4])
    """

    def __init__(
        self,
        num_experts: int,
        hidden_units: int,
        depth: int = 1,
        activation: Activation = "relu",
        use_bias: bool = False,
        recompute: bool = False,
        kernel_initializer: Initializer = "glorot_uniform",
        gated: bool = False,
        expert_dropout: float = 0.0,
        output_units: int | None = None,
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.hidden_units = arguments.positive("hidden_units", hidden_units)
        self.depth = arguments.positive("depth", depth)
        self.activation = arguments.activation("activation", activation)
        self.use_bias = arguments.boolean("use_bias", use_bias)
        self.recompute = arguments.boolean("recompute", recompute)
        self.kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)
        self.gated = arguments.boolean("gated", gated)
        self.expert_dropout = arguments.fraction("expert_dropout", expert_dropout)
        self.output_units = arguments.output_width(output_units)
        self.bias_initializer = arguments.initializer("bias_initializer", bias_initializer)
        self.kernel_regularizer = arguments.regularizer("kernel_regularizer", kernel_regularizer)
        self.bias_regularizer = arguments.regularizer("bias_regularizer", bias_regularizer)
        self.kernel_constraint = arguments.constraint("kernel_constraint", kernel_constraint)
        self.bias_constraint = arguments.constraint("bias_constraint", bias_constraint)
        self.seed_generator = keras.random.SeedGenerator() if self.expert_dropout else None
        track(self, seed_generator=self.seed_generator)
        self.kernels: list = []
        self.biases: list = []

    def _kernel_shapes(self, input_dim):
        """The shapes `(inputs, outputs)` of an expert's kernels."""
        hidden = self.hidden_units
        sums = 2 * hidden if self.gated else hidden
        last = (hidden, self.output_width(input_dim))
        return [(input_dim, sums), *[(hidden, sums)] * (self.depth - 1), last]

    def output_width(self, input_dim: int) -> int:
        """N for inputs of width D."""
        return self.output_units or input_dim

    def build(self, rows_shape, counts_shape=None):
        input_dim = arguments.last_dimension(f"rows of {self.name}", rows_shape)
        self.input_spec = keras.layers.InputSpec(axes={-1: input_dim})
        for i, (inputs, outputs) in enumerate(self._kernel_shapes(input_dim)):
            gated = self.gated and i < self.depth
            kernel = self.add_weight(
                name=f"kernel_{i}",
                shape=(self.num_experts, inputs, outputs),
                initializer=per_expert(self.kernel_initializer, gated),
                **penalties(self.kernel_regularizer, self.kernel_constraint, gated),
            )
            self.kernels.append(kernel)
            if self.use_bias:
                bias = self.add_weight(
                    name=f"bias_{i}",
                    shape=(self.num_experts, outputs),
                    initializer=per_expert(self.bias_initializer, gated),
                    **penalties(self.bias_regularizer, self.bias_constraint, gated),
                )
                self.biases.append(bias)
        track(self, kernels=self.kernels, biases=self.biases)

    def call(self, rows, counts=None, training=False):
        rows = arguments.float_tensor(f"rows of {self.name}", rows, self.compute_dtype)
        if rows.shape.rank == 2:
            return self.compute(rows, counts, training=training)
        shape = tf.shape(rows)
        flat = tf.reshape(rows, [-1, rows.shape[-1]])
        outputs = self.compute(flat, None, rows_per_expert=shape[1], training=training)
        return tf.reshape(outputs, tf.concat([shape[:2], [outputs.shape[-1]]], axis=0))

    def compute(self, rows, counts, rows_per_expert=None, training=False, is_static=False):
        """Computes each row with its expert.

        Args:
            rows: `[A, D]`, sorted by expert.
            counts: `[E]` int32, rows of each expert.
            rows_per_expert: `[]` int32, C if all experts have the same number of rows and A = E·C;
                else `None`.
            training: as for a call.
            is_static: whether no shape may depend on `counts`.

        Returns:
            `[A, N]`.
        """
        kernels = [tf.convert_to_tensor(kernel) for kernel in self.kernels]
        biases = [tf.convert_to_tensor(bias) for bias in self.biases] or None
        activation = portable(self.activation)
        activation = gated_activation(activation) if self.gated else activation
        options = {"activation": activation, "recompute": self.recompute}
        if rows_per_expert is None:
            options["dropout"] = self._draw_dropout([tf.shape(rows)[0]], training)
            if is_static:
                return static_expert_ffn(rows, counts, kernels, biases, **options)
            return expert_ffn(rows, counts, kernels, biases, training=training, **options)
        shape = [kernels[0].shape[0], rows_per_expert]
        options["dropout"] = self._draw_dropout(shape, training)
        by_expert = tf.reshape(rows, [*shape, rows.shape[-1]])
        outputs = equal_expert_ffn(by_expert, kernels, biases, **options)
        return tf.reshape(outputs, [-1, outputs.shape[-1]])

    def _draw_dropout(self, rows_shape, training):
        """The `HiddenDropout` of a call, for rows `[*rows_shape, D]`."""
        if not training or not self.expert_dropout:
            return NO_DROPOUT
        if in_recompute_grad():
            raise ValueError(
                f"{self.name} has expert_dropout={self.expert_dropout}, but runs inside "
                "tf.recompute_grad or keras.RematScope, which draw again in the backward pass: "
                "use recompute=True of the layer instead"
            )
        widths = [self.hidden_units] * self.depth
        return draw_dropout(self.expert_dropout, rows_shape, widths, self.seed_generator)

    def num_local(self):
        """The number of experts on this device."""
        return tf.convert_to_tensor(self.kernels[0]).shape[0]

    def compute_output_shape(self, rows_shape, counts_shape=None):
        return (*rows_shape[:-1], self.output_width(rows_shape[-1]))

    def ops_per_row(self, input_dim: int) -> int:
        """Multiply-adds of one expert for one row."""
        return sum(inputs * outputs for inputs, outputs in self._kernel_shapes(input_dim))

    def hidden_per_row(self) -> int:
        """The number of values that an expert keeps for the backward pass of a row: the inputs of
        its activations, whose outputs are computed again.
        """
        return self.depth * self.hidden_units * (2 if self.gated else 1)

    def dropout_per_row(self) -> int:
        """Bytes kept for the backward pass of a row with or without recomputation: which hidden
        activations are dropped.
        """
        return self.depth * self.hidden_units if self.expert_dropout else 0

    def own_config(self) -> dict:
        """The constructor arguments of `Experts`, without those of every Keras layer."""
        return {
            "num_experts": self.num_experts,
            "hidden_units": self.hidden_units,
            "depth": self.depth,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "recompute": self.recompute,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "gated": self.gated,
            "expert_dropout": self.expert_dropout,
            "output_units": self.output_units,
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }

    def get_config(self):
        return {**super().get_config(), **self.own_config()}
