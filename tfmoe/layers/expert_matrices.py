"""A stack of matrices, one per expert, with dispatch and combine.

Axes: T tokens, E experts, A rows, I inputs, N outputs.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute.exchange import Local, exchange
from tfmoe.distribute.gathered_shards import gather_shards
from tfmoe.distribute.shards import shard_bounds, sharded
from tfmoe.layers.initializers import per_expert
from tfmoe.layers.stack_penalties import penalties
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Constraint, Initializer, Regularizer
from tfmoe.ops.expert_matmul import grouped_matmul


@keras.saving.register_keras_serializable("tfmoe")
class ExpertMatrices(keras.layers.Layer):
    """E linear experts without biases: `y = Σ_i G(x)_i W_i x`.

    Under a `MixedStrategy` the matrices are sharded over the replicas.

    Args:
        num_experts: E.
        units: N.
        kernel_initializer: initializer of each expert's matrix, as for a dense layer.
        together: the number of consecutive experts that stay on one replica, such as those of a
            group (App. B).
        kernel_regularizer: regularizer of each expert's matrix, as for a dense layer.
        kernel_constraint: constraint of each expert's matrix, as for a dense layer.

    Call arguments:
        tokens: `[T, I]` float.
        assignments: `tfmoe.ops.assignments.Assignments` of the tokens to all experts. Under a
            `MixedStrategy` rows are sent to the replicas of their experts.
        training: not used.

    Returns:
        `[T, N]`; 0 for a token without an expert.
    """

    recompute = False  # there are no hidden activations

    def __init__(
        self,
        num_experts: int,
        units: int,
        kernel_initializer: Initializer = "glorot_uniform",
        together: int = 1,
        kernel_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.units = arguments.positive("units", units)
        self.kernel_initializer = arguments.initializer("kernel_initializer", kernel_initializer)
        self.together = together
        self.kernel_regularizer = arguments.regularizer("kernel_regularizer", kernel_regularizer)
        self.kernel_constraint = arguments.constraint("kernel_constraint", kernel_constraint)

    def build(self, tokens_shape, *_):
        input_dim = arguments.last_dimension(f"tokens of {self.name}", tokens_shape)
        with sharded(self.together):
            self.kernel = self.add_weight(
                name="kernel",
                shape=(self.num_experts, input_dim, self.units),
                initializer=per_expert(self.kernel_initializer),
                **penalties(self.kernel_regularizer, self.kernel_constraint),
            )

    def call(self, tokens, assignments, training=False):
        return self._local()._compute(exchange(assignments), tokens)

    def compute_local(self, rows, assignments, training=False):
        """As a call, for rows that are on the device of their experts: `assignments` assign them to
        the experts of this replica.
        """
        return self._local()(rows, assignments)

    def _local(self):
        return MatrixStack(tf.cast(tf.convert_to_tensor(self.kernel), self.compute_dtype))

    def gathered(self) -> "MatrixStack":
        """The matrices of all experts on this replica, for loops, in which replicas cannot
        communicate.
        """
        kernel = gather_shards(self._local().kernel, self.num_experts, self.together)
        return MatrixStack(tf.ensure_shape(kernel, self.kernel.shape))

    def per_device(self, devices):
        """The maximum number of experts on a device, for a number of devices."""
        begin, end = shard_bounds(self.num_experts, devices, self.together)[0]
        return end - begin

    def ops_per_row(self, input_dim: int) -> int:
        """Multiply-adds of one expert for one row."""
        return input_dim * self.units

    def hidden_per_row(self) -> int:
        """The number of hidden activations of an expert: none."""
        return 0

    def compute_output_shape(self, tokens_shape, *_):
        return (*tokens_shape[:-1], self.units)

    def own_config(self) -> dict:
        """How the matrices are drawn, regularized and constrained."""
        return {
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "units": self.units,
            **self.own_config(),
            "together": self.together,
        }


class MatrixStack(NamedTuple):
    """The matrices of experts on this device. A call is that of `ExpertMatrices`, without
    communication.

    Attributes:
        kernel: `[E, I, N]`. Of wider tokens only the first I columns are multiplied.
    """

    kernel: tf.Tensor

    def __call__(self, tokens, assignments, training=False):
        # Not `local`: XLA has no gradient of its equal parts in a loop, whose shapes it must know.
        return self._compute(Local(assignments), tokens)

    def compute_local(self, rows, assignments, training=False):
        """As a call."""
        return self(rows, assignments)

    def _compute(self, dispatcher, tokens):
        if dispatcher.counts.shape[0] != self.kernel.shape[0]:
            raise ValueError(
                "the matrices were created outside of the MixedStrategy, so every replica holds "
                "all experts: create the layer inside `with strategy.scope():`"
            )
        rows = dispatcher.dispatch(tokens[:, : self.kernel.shape[1]])
        return dispatcher.combine(self._product(rows, dispatcher))

    def _product(self, rows, dispatcher):
        """Multiplies each row of a dispatcher with the matrix of its expert."""
        rows_per_expert = dispatcher.rows_per_expert
        if not dispatcher.is_static or rows_per_expert is None:
            return grouped_matmul(rows, dispatcher.counts, self.kernel, dispatcher.is_static)
        num_experts, width, units = self.kernel.shape
        by_expert = tf.reshape(rows, [num_experts, rows_per_expert, width])
        return tf.reshape(tf.matmul(by_expert, self.kernel), [-1, units])
