"""The base class of gates: a layer that assigns tokens to experts and counts the use of experts.

Axes: T tokens, E experts, K experts per token, D model, G groups.
"""

from typing import Any

import tensorflow as tf

from tfmoe.gating.copies import copy_of
from tfmoe.gating.kernels import GateKernels
from tfmoe.gating.micro_step import WHOLE_STEP, MicroStep
from tfmoe.gating.required import required
from tfmoe.gating.routing import Groups, Routing, assignments_of, checked_routing, sums_of


class Gate(GateKernels):
    """Base class of gates. A subclass implements `route` and `num_selected`.

    A gate assigns tokens and returns sums over them. It never communicates: the mixture adds up the
    sums of all devices, and passes those of the global batch to `loss`, `measures` and `update`.

    A gate is created without a number of experts, `NoisyTopK(k=4)`. A mixture copies it with
    `for_experts`; so `get_config` must return every argument of the constructor. Random numbers are
    drawn in a method `draw(inputs)`, `[T, D]` to `[T, …]`.

    Attributes for subclasses:

    - `kernel_names`: the names of the gate's `[D, E]` matrices.
    - `METRICS`: the names of all values that `measures` can return.
    - `RETIRED`: constructor arguments of old configurations, which had no effect.
    - `estimates_load`: whether `route` with `training` returns the sum `smooth_load`, an estimate
      of the load that has a gradient (eq 10); `None` if the class does not say.
    - `groups`, `secondary`: the group count and the inner gate of a hierarchical gate.
    - `needs_token_ids`: whether `route` reads the token ids, `[T]` int32, instead of the inputs.
    - `needs_sequences`: whether `route` has the further argument `sequences`: the `Groups` of the
      tokens by sequence, or `None` if all tokens are one sequence.
    - `depends_on_batch`: whether the experts of a token depend on other tokens outside of training
      too. Such a model cannot be exported.
    - `minimum_capacity`: the least capacity of an expert, if `token_capacity` sets one.
    - `capacity_priority`: which assignments an expert keeps if it has a capacity; see
      `tfmoe.distribute.capacity.within_capacity`.
    """

    METRICS: tuple[str, ...] = ()
    RETIRED: tuple[str, ...] = ()
    groups: int | None = None
    secondary: Any = None
    minimum_capacity = 0
    capacity_priority = "position"
    estimates_load: bool | None = None
    needs_token_ids = False
    needs_sequences = False
    depends_on_batch = False
    importance_weight = load_weight = 0.0  # of eq 7 and 11, for gates with these losses

    @required
    def route(
        self, inputs: tf.Tensor, training: bool = False, groups: Groups | None = None
    ) -> Routing:
        """Assigns tokens to experts.

        Args:
            inputs: `[T, D]` float, the gate's variable dtype.
            training: whether the gate draws noise.
            groups: `None` for a single gate that routes all rows. Otherwise `Groups`: for G gates
                at once, the groups of the rows; and which rows are padding. Pass it on to `logits`,
                `features` and `routing_of_tokens`.
        """
        raise NotImplementedError

    @property
    @required
    def num_selected(self) -> int:
        """The number of experts per token, as a maximum or a mean."""
        raise NotImplementedError

    def loss(self, sums: dict) -> tf.Tensor | None:
        """The loss that training adds: a scalar (`[G]` for G gates) or `None`. `sums` are those of
        `Routing` over the global batch.
        """
        return None

    def loss_as_level(self, sums: dict) -> tf.Tensor | None:
        """`loss` without the importance and load losses (eq 13 and 14), which a hierarchical
        mixture computes for all its experts.
        """
        return self.loss(sums)

    def measures(self, sums: dict) -> dict:
        """Metrics `{name: scalar}`, with names in `METRICS`; `sums` as for `loss`."""
        return {}

    def update(self, sums: dict, micro_step: MicroStep = WHOLE_STEP) -> None:
        """Updates weights that have no gradient, with `add_to_weight` or `assign_weight`, in a
        training step. A training step must then call the mixture once.

        Args:
            sums: as for `loss`.
            micro_step: which part of the optimizer step the batch is.
        """

    @property
    def updates_weights(self) -> bool:
        """Whether the gate has an `update`."""
        return type(self).update is not Gate.update

    def token_capacity(self, training: bool) -> float | None:
        """The factor of the capacity `⌈factor·T/E⌉`, T tokens of the global batch, or `None`."""
        return None

    def noise_deviation(self, inputs: tf.Tensor, groups: Groups | None = None) -> dict:
        """`{name: scalar}`: the mean standard deviation of the gate's noise, if it has any."""
        return {}

    def for_experts(self, num_experts: int, **changes) -> "Gate":
        """Creates an unbuilt copy with the same settings for `num_experts` experts."""
        return copy_of(self, num_experts=num_experts, **changes)

    def routing_of_tokens(self, experts, weights, groups=None, **per_token) -> Routing:
        """The `Routing` of tokens that select K experts each: `experts` `[T, K]` integer ids, where
        id E drops an assignment, and `weights` `[T, K]`; other arguments as for `routing`.
        """
        self.check_groups(groups)
        selection = experts, weights
        assignments = assignments_of(type(self).__name__, selection, self.num_experts, groups)
        return self.routing(assignments, groups, **per_token)

    def routing(self, assignments, groups=None, **per_token) -> Routing:
        """The `Routing` of assignments, with the standard sums and the sums of `per_token`, `[T]`
        or `[T, E]` tensors, over the tokens. `groups` as for `route`.
        """
        return Routing(assignments, sums_of(assignments, self.num_experts, groups, **per_token))

    def call(self, inputs, training=False, groups=None, sequences=None):
        options = {"sequences": sequences} if self.needs_sequences else {}
        routing = self.route(inputs, training=training, groups=groups, **options)
        return checked_routing(type(self).__name__, routing)

    @classmethod
    def current_settings(cls, settings: dict) -> dict:
        """Arguments of a configuration, which may be old, as the constructor accepts them."""
        return settings

    @classmethod
    def from_config(cls, config):
        settings = {k: v for k, v in config.items() if k not in cls.RETIRED}
        return super().from_config(cls.current_settings(settings))


def any_estimates_load(*gates):
    """Whether any of the gates estimates its load; `None` if one does not say."""
    flags = {gate.estimates_load for gate in gates}
    if True in flags:
        return True
    return None if None in flags else False
