"""The experts of a mixture, wherever they are: exchange, compute, combine.

Axes: T tokens, E experts, A rows, D model, N outputs.
"""

import tensorflow as tf

from tfmoe.distribute.exchange import Local, exchange
from tfmoe.distribute.shards import shard_bounds, sharded
from tfmoe.layers.experts import Experts


class RoutedExperts(Experts):
    """`Experts` that take tokens and assignments: `y = Σ_i G(x)_i E_i(x)` (eq 1). Under a
    `MixedStrategy` they are sharded over the replicas.

    Args:
        together: experts that stay on one replica together, such as those of a group (App. B).
        **arguments: of `Experts`.

    Call arguments:
        tokens: `[T, D]` float.
        assignments: `tfmoe.ops.assignments.Assignments` of the tokens to all experts. Under a
            `MixedStrategy` rows travel to the replicas that hold their experts.
        training: whether to keep the hidden activations for a backward pass that may come.

    Returns:
        `[T, D]`; 0 for a token without an expert.

    Raises:
        ValueError: in the replicas of a `MixedStrategy` in whose scope it was not created.
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
        return self._through(exchange(assignments), tokens, training)

    def on_this_device(self, rows, assignments, training=False):
        """The same for rows that have reached the device of their experts: `assignments` are to the
        experts of this replica.
        """
        return self._through(Local(assignments), rows, training)

    def per_device(self, devices):
        """How many experts the fullest of several devices holds."""
        begin, end = shard_bounds(self.num_experts, devices, self.together)[0]
        return end - begin

    def _through(self, way, tokens, training):
        if way.counts.shape[0] != tf.convert_to_tensor(self.kernels[0]).shape[0]:
            raise ValueError(
                f"every replica holds all experts of {self.name}, which were created outside of "
                "the MixedStrategy: create the layer inside `with strategy.scope():`"
            )
        dispatch = way.dispatch if way.rows_per_expert is None else way.dispatch_kept
        rows = self.compute(dispatch(tokens), way.counts, way.rows_per_expert, training)
        return way.combine(rows)

    def compute_output_shape(self, tokens_shape, *_):
        return tuple(tokens_shape)
