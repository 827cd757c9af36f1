"""The experts of a mixture on one device or several: exchange, compute, combine.

Axes: T tokens, E experts, A rows, D model, N outputs.
"""

import tensorflow as tf

from tfmoe.distribute.exchange import Local, exchange
from tfmoe.distribute.shards import shard_bounds, sharded
from tfmoe.layers.experts import Experts


class RoutedExperts(Experts):
    """`Experts` with dispatch and combine: `y = Σ_i G(x)_i E_i(x)` (eq 1).

    Under a `MixedStrategy` the experts are sharded over the replicas.

    Args:
        num_experts: E.
        hidden_units: H.
        together: the number of consecutive experts that stay on one replica, such as those of a
            group (App. B).
        **arguments: further arguments of `Experts`.

    Call arguments:
        tokens: `[T, D]` float.
        assignments: `tfmoe.ops.assignments.Assignments` of the tokens to all experts. Under a
            `MixedStrategy` rows are sent to the replicas of their experts.
        training: whether hidden activations are kept for the backward pass.

    Returns:
        `[T, D]`; 0 for a token without an expert.

    Raises:
        ValueError: the layer runs in the replicas of a `MixedStrategy`, but was created outside of
            its scope.
    """

    def __init__(self, num_experts, hidden_units, together=1, **arguments):
        super().__init__(num_experts, hidden_units, **arguments)
        self.together = together

    def build(self, tokens_shape, *_):
        with sharded(self.together):
            super().build(tokens_shape)

    def get_config(self):
        return {**super().get_config(), "together": self.together}

    def call(self, tokens, assignments, training=False):
        return self._compute(exchange(assignments), tokens, training)

    def compute_local(self, rows, assignments, training=False):
        """As a call, for rows that are on the device of their experts: `assignments` assign them to
        the experts of this replica.
        """
        return self._compute(Local(assignments), rows, training)

    def per_device(self, devices):
        """The maximum number of experts on a device, for a number of devices."""
        begin, end = shard_bounds(self.num_experts, devices, self.together)[0]
        return end - begin

    def _compute(self, dispatcher, tokens, training):
        if dispatcher.counts.shape[0] != tf.convert_to_tensor(self.kernels[0]).shape[0]:
            raise ValueError(
                f"{self.name} was created outside of the MixedStrategy, so every replica holds all "
                "experts: create the layer inside `with strategy.scope():`"
            )
        rows_per_expert = dispatcher.rows_per_expert
        dispatch = dispatcher.dispatch if rows_per_expert is None else dispatcher.dispatch_kept
        rows = self.compute(dispatch(tokens), dispatcher.counts, rows_per_expert, training)
        return dispatcher.combine(rows)

    def compute_output_shape(self, tokens_shape, *_):
        return tuple(tokens_shape)
