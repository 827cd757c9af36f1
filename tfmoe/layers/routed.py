"""Dispatch and combine around a stack of experts, on one device or several.

Axes: T tokens, E experts, A rows, D values of an example, N values of its output.
"""

from tfmoe.distribute.exchange import exchange, local
from tfmoe.distribute.shards import shard_bounds, sharded


class Routed:
    """Adds dispatch and combine to a layer with a stack of experts: `y = Σ_i G(x)_i E_i(x)` (eq 1).

    The layer has `num_experts`, `build`, and these methods:

    - `compute(rows, counts, rows_per_expert=None, training=False, is_static=False)` computes
      `[A, D]` rows, sorted by expert, to `[A, N]`: see `tfmoe.layers.Experts.compute`;
    - `num_local()` is the number of experts on this device.

    Under a `MixedStrategy` the experts are sharded over the replicas.

    Args:
        *arguments: arguments of the layer.
        together: the number of consecutive experts that stay on one replica, such as those of a
            group (App. B).
        **options: further arguments of the layer.

    Call arguments:
        tokens: `[T, D]` float.
        assignments: `tfmoe.ops.assignments.Assignments` of the tokens to all experts. Under a
            `MixedStrategy` rows are sent to the replicas of their experts.
        training: whether the step trains.

    Returns:
        `[T, N]`; 0 for a token without an expert.

    Raises:
        ValueError: the layer runs in the replicas of a `MixedStrategy`, but was created outside of
            its scope.
    """

    def __init__(self, *arguments, together=1, **options):
        super().__init__(*arguments, **options)
        self.together = together

    def build(self, tokens_shape, *_):
        with sharded(self.together):
            super().build(tokens_shape)

    def get_config(self):
        return {**super().get_config(), "together": self.together}

    def call(self, tokens, assignments, training=False):
        return self._compute(exchange(self.limited(assignments)), tokens, training)

    def compute_local(self, rows, assignments, training=False):
        """As a call, for rows that are on the device of their experts: `assignments` assign them to
        the experts of this replica.
        """
        return self._compute(local(self.limited(assignments)), rows, training)

    def limited(self, assignments):
        """Sets a maximum for the rows of an expert, if static assignments need one."""
        return assignments

    def per_device(self, devices):
        """The maximum number of experts on a device, for a number of devices."""
        begin, end = shard_bounds(self.num_experts, devices, self.together)[0]
        return end - begin

    def _compute(self, dispatcher, tokens, training):
        if dispatcher.counts.shape[0] != self.num_local():
            raise ValueError(
                f"{self.name} was created outside of the MixedStrategy, so every replica holds all "
                "experts: create the layer inside `with strategy.scope():`"
            )
        rows_per_expert = dispatcher.rows_per_expert
        dispatch = dispatcher.dispatch if rows_per_expert is None else dispatcher.dispatch_kept
        rows = self.compute(
            dispatch(tokens), dispatcher.counts, rows_per_expert, training, dispatcher.is_static
        )
        return dispatcher.combine(rows)
