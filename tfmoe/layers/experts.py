"""A stack of feed-forward networks, one per expert.

Axes: E experts, A rows (assignments), D model, H hidden.
"""

import keras
import tensorflow as tf

from tfmoe.layers.initializers import GateAndUp, per_expert
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Initializer
from tfmoe.ops.expert_matmul import equal_expert_ffn, expert_ffn
from tfmoe.ops.expert_network import gated as gated_activation
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class Experts(keras.layers.Layer):
    """E feed-forward networks `D → H → … → H → D`; each row is computed by one of them (App. C).

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

    Call arguments:
        rows: `[A, D]`, sorted by expert; or `[E, C, D]`, the same number of rows for each expert.
        counts: `[E]` int32, the rows of each expert; not used for `[E, C, D]`. Rows from
            `sum(counts)` on belong to no expert and give 0.
        training: whether hidden activations are kept for the backward pass.

    Returns:
        The outputs, with the shape of `rows`.

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
        self.kernels: list = []
        self.biases: list = []

    def _kernel_shapes(self, input_dim):
        """The shapes `(inputs, outputs)` of an expert's kernels."""
        hidden = self.hidden_units
        sums = 2 * hidden if self.gated else hidden
        return [(input_dim, sums), *[(hidden, sums)] * (self.depth - 1), (hidden, input_dim)]

    def build(self, rows_shape, counts_shape=None):
        input_dim = arguments.last_dimension(f"rows of {self.name}", rows_shape)
        self.input_spec = keras.layers.InputSpec(axes={-1: input_dim})
        for i, (inputs, outputs) in enumerate(self._kernel_shapes(input_dim)):
            initializer = per_expert(self.kernel_initializer, self.num_experts)
            if self.gated and i < self.depth:
                initializer = GateAndUp(self.kernel_initializer)
            kernel = self.add_weight(
                name=f"kernel_{i}",
                shape=(self.num_experts, inputs, outputs),
                initializer=initializer,
            )
            self.kernels.append(kernel)
            if self.use_bias:
                bias = self.add_weight(
                    name=f"bias_{i}", shape=(self.num_experts, outputs), initializer="zeros"
                )
                self.biases.append(bias)
        track(self, kernels=self.kernels, biases=self.biases)

    def call(self, rows, counts=None, training=False):
        rows = arguments.float_tensor(f"rows of {self.name}", rows, self.compute_dtype)
        if rows.shape.rank == 2:
            return self.compute(rows, counts, training=training)
        shape = tf.shape(rows)
        flat = tf.reshape(rows, [-1, rows.shape[-1]])
        outputs = self.compute(flat, None, rows_per_expert=shape[1])
        return tf.reshape(outputs, tf.concat([shape[:2], [outputs.shape[-1]]], axis=0))

    def compute(self, rows, counts, rows_per_expert=None, training=False):
        """Computes each row with its expert.

        Args:
            rows: `[A, D]`, sorted by expert.
            counts: `[E]` int32, rows of each expert.
            rows_per_expert: `[]` int32, C if all experts have the same number of rows and A = E·C;
                else `None`.
            training: as for a call.

        Returns:
            `[A, D]`.
        """
        kernels = [tf.convert_to_tensor(kernel) for kernel in self.kernels]
        biases = [tf.convert_to_tensor(bias) for bias in self.biases] or None
        activation = gated_activation(self.activation) if self.gated else self.activation
        options = {"activation": activation, "recompute": self.recompute}
        if rows_per_expert is None:
            return expert_ffn(rows, counts, kernels, biases, training=training, **options)
        shape = [kernels[0].shape[0], rows_per_expert, rows.shape[-1]]
        outputs = equal_expert_ffn(tf.reshape(rows, shape), kernels, biases, **options)
        return tf.reshape(outputs, [-1, outputs.shape[-1]])

    def num_local(self):
        """The number of experts on this device."""
        return tf.convert_to_tensor(self.kernels[0]).shape[0]

    def compute_output_shape(self, rows_shape, counts_shape=None):
        return tuple(rows_shape)

    def ops_per_row(self, input_dim: int) -> int:
        """Multiply-adds of one expert for one row."""
        return sum(inputs * outputs for inputs, outputs in self._kernel_shapes(input_dim))

    def hidden_per_row(self) -> int:
        """The number of values that an expert keeps for the backward pass of a row: the inputs of
        its activations, whose outputs are computed again.
        """
        return self.depth * self.hidden_units * (2 if self.gated else 1)

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
        }

    def get_config(self):
        return {**super().get_config(), **self.own_config()}
