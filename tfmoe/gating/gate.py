"""What every gate is: a layer that assigns tokens to experts and counts how they are used.

Axes: T tokens, E experts, K experts per token, D model, G groups.
"""

from tfmoe.gating.copies import copy_of
from tfmoe.gating.kernels import GateKernels
from tfmoe.gating.routing import Routing, numbered_through_groups, sums_of
from tfmoe.ops.arguments import positive
from tfmoe.ops.assignments import assign_tokens


class Gate(GateKernels):
    """Base class of gates. A subclass implements `route` and `num_selected`.

    A gate decides and counts. It never communicates: a mixture adds up the sums of all devices, and
    gives those of the global batch to `loss`, `measures` and `update`.

    A gate is written without its number of experts, `NoisyTopK(k=4)`. The mixture that uses it
    makes its own copy for its number of experts, with `for_experts`; so `get_config` has to return
    every argument of the constructor. Whatever a gate draws at random it draws in a method
    `draw(inputs)`, `[T, D]` to `[T, …]`.

    Attributes for subclasses:
        kernel_names: of the gate's `[D, E]` matrices.
        METRICS: the names of all values that `measures` can return.
        RETIRED: names of constructor arguments of old configurations, which had no effect.
        groups, secondary: of a hierarchical gate the number of groups, and the inner level's gate.
        capacity_priority: see `tfmoe.distribute.capacity.within_capacity`.
    """

    METRICS: tuple[str, ...] = ()
    RETIRED: tuple[str, ...] = ()
    groups = secondary = None
    capacity_priority = "position"
    importance_weight = load_weight = 0.0  # of eq 7 and 11, for gates that have these losses

    def route(self, inputs, training=False, groups=None):
        """Assigns tokens to experts.

        Args:
            inputs: `[T, D]` float, the gate's own type.
            training: whether noise, if the gate has any, is drawn.
            groups: `None`; for G gates at once `tfmoe.gating.Groups`, of which rows belong to each.
                `logits`, `routing` and `routing_of_tokens` take it as it is.

        Returns:
            A `Routing`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement route(inputs, training)")

    @property
    def num_selected(self):
        """The number of experts that a token goes to, at most or on average."""
        raise NotImplementedError(f"{type(self).__name__} must implement num_selected")

    def loss(self, sums):
        """What training adds to the task's loss: a scalar (`[G]` for G gates), or `None`.

        Args:
            sums: those of `Routing`, of the global batch.
        """
        return None

    def loss_as_level(self, sums):
        """`loss`, without the losses that a hierarchical mixture has for all its experts together:
        those of importance and load (eq 13 and 14).
        """
        return self.loss(sums)

    def measures(self, sums):
        """`{name: scalar}` for metrics, names of `METRICS`; `sums` as for `loss`."""
        return {}

    def update(self, sums):
        """Changes weights that no gradient trains, by `add_to_weight`, in a training step."""

    def token_capacity(self, training):
        """Factor of the tokens that an expert takes at most, `⌈factor · T / E⌉` of T tokens of the
        global batch; `None` for no limit.
        """
        return None

    def noise_deviation(self, inputs, groups=None):
        """`{name: scalar}`: the mean standard deviation of the gate's noise, if it has any."""
        return {}

    def for_experts(self, num_experts, **changes):
        """A new, unbuilt gate of the same settings for `num_experts` experts."""
        return copy_of(self, num_experts=num_experts, **changes)

    def checked_k(self, k):
        """A subclass's number of experts per token, if it is one."""
        k = positive("k", k)
        if self.num_experts is not None and k > self.num_experts:
            raise ValueError(
                f"k must be at most {self.num_experts}, the number of experts (of groups, at the "
                f"first level of a hierarchical mixture) to choose from, got k={k}"
            )
        return k

    def routing_of_tokens(self, experts, weights, groups=None, **per_token):
        """The `Routing` where every token selects K experts: ids `experts` `[T, K]` int32, of which
        the id E drops an assignment, and `weights` `[T, K]`; `groups` and `per_token` as below.
        """
        experts, num_experts = numbered_through_groups(experts, self.num_experts, groups)
        return self.routing(assign_tokens(experts, weights, num_experts), groups, **per_token)

    def routing(self, assignments, groups=None, **per_token):
        """The `Routing` of assignments, with the sums that every gate has and those of `per_token`:
        `[T]` or `[T, E]` tensors, to be summed over the tokens. `groups` as for `route`.
        """
        return Routing(assignments, sums_of(assignments, self.num_experts, groups, **per_token))

    def call(self, inputs, training=False, groups=None):
        return self.route(inputs, training=training, groups=groups)

    @classmethod
    def from_config(cls, config):
        return super().from_config({k: v for k, v in config.items() if k not in cls.RETIRED})
