"""Two levels of gates (App. B): a primary gate selects groups of experts, a secondary gate selects
experts within each group.

Axes: T tokens, G groups (first-level branching factor), E experts, D model, A rows that are sent to
groups; G_r groups on this replica.
"""

import math
from typing import Any

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.exchange import Local
from tfmoe.distribute.shards import shard_bounds, sharded
from tfmoe.gating.gate import Gate, any_estimates_load
from tfmoe.gating.micro_step import WHOLE_STEP
from tfmoe.gating.old_settings import without_load_loss
from tfmoe.gating.registry import FLAT_GATES, gate_of
from tfmoe.gating.routing import Routing, groups_of
from tfmoe.ops.arguments import non_negative, positive
from tfmoe.ops.assignments import compose
from tfmoe.ops.balancing import (
    add_losses,
    hierarchical_load,
    importance_loss,
    load_loss,
    weighted_losses,
)

# Metrics over the tokens of one level; the mixture computes them over its own tokens instead.
LEVEL_METRICS = ("experts_per_token", "unrouted")


@keras.saving.register_keras_serializable("tfmoe")
class Hierarchical(Gate):
    """Two-level gating: a primary gate selects groups, a secondary gate selects experts within
    each group (App. B).

    `G(x)_ij = G_primary(x)_i · G_i(x)_j` (eq 12). Group i of G has experts `i·E/G … (i+1)·E/G - 1`.

    A secondary gate is computed only for the tokens of its group, so the cost of gating grows with
    `G + K1·E/G` instead of E. With `Softmax` at both levels this is the dense hierarchical mixture.

    For the same gate at both levels write `MoE(num_experts=256, groups=16, gate=NoisyTopK(k=2))`.

    Args:
        groups: G, a divisor of the number of experts.
        primary: the gate that selects groups: a `Gate`, or a name or dictionary as for `MoE`.
        secondary: the gate that selects experts within a group, of any class; `None` for the
            settings of `primary`.
        importance_weight: weight of the importance loss over all experts (w_importance for
            `Importance_H`, eq 13); `None` for the larger of the weights in `primary` and
            `secondary`.
        load_weight: weight of the load loss over all experts (w_load for `Load_H`, eq 14); `None`
            as for `importance_weight`, but 0 if neither gate draws noise, as `NoisyTopK` does: the
            load then has no gradient. These two losses balance both levels, so the importance and
            load weights in `primary` and `secondary` add no further loss. Other losses of these
            gates are added: that of `primary`, and the mean over the groups of `secondary`.

    The metrics are those of both gates; if both gates have a metric, the mean of the two.
    `experts_per_token` and `unrouted` refer to the whole mixture, in evaluation only.

    Raises:
        ValueError: `groups` does not divide the number of experts, a gate's k is too large for its
            level, or `load_weight` > 0 and no gate draws noise. A configuration with such a
            `load_weight` loads, with 0 instead and a warning.

    Example:
        >>> gate = Hierarchical(groups=4, primary=Switch(), secondary=NoisyTopK(k=2))
        >>> moe = MoE(num_experts=16, hidden_units=64, gate=gate)
    """

    kernel_names = ()
    groups: Any
    primary: Any

    def __init__(
        self,
        groups: int,
        primary: Gate | str | dict,
        secondary: Gate | str | dict | None = None,
        importance_weight: float | None = None,
        load_weight: float | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.num_groups is not None:
            raise ValueError("a Hierarchical gate cannot be a level of another Hierarchical gate")
        self.primary = flat_gate("primary", primary)
        self.secondary = flat_gate("secondary", self.primary if secondary is None else secondary)
        if importance_weight is None:
            importance_weight = self._larger("importance_weight")
        if load_weight is None:
            load_weight = 0.0 if self.estimates_load is False else self._larger("load_weight")
        self.importance_weight = non_negative("importance_weight", importance_weight)
        self.load_weight = non_negative("load_weight", load_weight)
        if self.load_weight and self.estimates_load is False:
            raise ValueError(
                f"load_weight must be 0 if no level draws noise, got {self.load_weight}: the load "
                "is a count then, and its loss has no gradient. Use importance_weight, a NoisyTopK "
                "at one level, or gates with a balance_weight"
            )
        self.groups = positive("groups", groups)
        if self.num_experts is not None:
            self._create_levels()

    def _larger(self, name):
        return max(getattr(gate, name) for gate in (self.primary, self.secondary))

    def _create_levels(self):
        if self.num_experts % self.groups:
            divisors = nearest_divisors(self.num_experts, self.groups)
            raise ValueError(
                f"groups must divide num_experts={self.num_experts}, got groups={self.groups}; "
                f"possible values: {', '.join(map(str, divisors))}"
            )
        options = {"dtype": self.dtype_policy}
        secondary = self.secondary  # may be the same object as primary
        self.primary = self.primary.for_experts(self.groups, name="primary", **options)
        self.secondary = secondary.for_experts(
            self.num_experts // self.groups, num_groups=self.groups, name="secondary", **options
        )

    def for_experts(self, num_experts, **changes):
        levels = {"primary": self.primary, "secondary": self.secondary}
        return super().for_experts(num_experts, **levels, **changes)

    @property
    def METRICS(self):
        return tuple(dict.fromkeys((*self.primary.METRICS, *self.secondary.METRICS)))

    @property
    def num_selected(self) -> int:
        return self.primary.num_selected * self.secondary.num_selected

    @property
    def estimates_load(self) -> bool | None:  # type: ignore[override]
        return any_estimates_load(self.primary, self.secondary)

    @property
    def needs_sequences(self) -> bool:  # type: ignore[override]
        return self.primary.needs_sequences

    @property
    def updates_weights(self) -> bool:
        return self.primary.updates_weights or self.secondary.updates_weights

    @property
    def depends_on_batch(self) -> bool:  # type: ignore[override]
        return self.primary.depends_on_batch or self.secondary.depends_on_batch

    def build(self, input_shape):
        super().build(input_shape)
        self.primary.build(input_shape)
        with sharded(is_divisible=False):
            self.secondary.build(input_shape)

    def route(self, inputs, training=False, groups=None, sequences=None):
        """Routes through both levels on one device.

        A mixture calls `primary` and `secondary` itself, and sends the rows to the devices of the
        groups between the two calls.

        Args:
            inputs: `[T, D]` float.
            training: whether the gates draw noise.
            groups: `None`; or `Groups` without sizes, for which rows are padding.
            sequences: passed to the primary gate if it needs them.
        """
        outer = self.primary(inputs, training=training, groups=groups, sequences=sequences)
        dispatcher = Local(outer.assignments)
        groups = groups_of(dispatcher)
        rows = dispatcher.dispatch_kept(inputs)
        inner = self.secondary.route(rows, training=training, groups=groups)
        assignments = compose(outer.assignments, inner.assignments)
        return Routing(assignments, self.level_sums(outer, inner, dispatcher, training))

    def level_sums(self, outer, inner, dispatcher, training):
        """Computes sums over the tokens of this device and over the rows that its groups received.

        Args:
            outer: `Routing` of `primary`.
            inner: `Routing` of `secondary`.
            dispatcher: the exchange by which the rows reached the groups.
            training: as for `route`.

        Returns:
            The standard sums, `[E]` for all experts; and `outer` and `inner`, the sums of the
            levels. The sums for groups on other devices are 0.
        """
        assignments = inner.assignments
        weights = tf.gather(dispatcher.weights(), assignments.tokens) * assignments.weights
        load = inner.sums["load"]
        importance = assignments.sum_by_expert(tf.cast(weights, load.dtype))
        inner_sums = {name: self.pad_to_all_groups(values) for name, values in inner.sums.items()}
        importance = self.pad_to_all_groups(tf.reshape(importance, tf.shape(load)))
        sums = {
            "tokens": outer.sums["tokens"],
            "importance": tf.reshape(importance, [self.num_experts]),
            "load": tf.reshape(inner_sums["load"], [self.num_experts]),
            "outer": outer.sums,
            "inner": inner_sums,
        }
        if not training and "unrouted" in self.METRICS:
            is_kept = tf.cast(assignments.is_kept(), tf.int32)
            experts_per_row = assignments.sum_by_token(is_kept)
            routed = dispatcher.sum_by_token(tf.cast(experts_per_row, load.dtype)) > 0
            sums["routed"] = tf.reduce_sum(tf.cast(routed, load.dtype))
        return sums

    def divides_groups(self):
        """Whether the experts of a group are on several devices: there are more replicas of a
        `MixedStrategy` than groups. Then every device has all secondary gates and routes its own
        tokens through both levels. Otherwise a group is on one device, with its secondary gate.
        """
        return collectives.shards_experts() and collectives.num_replicas() > self.groups

    def _local_groups(self):
        """`(begin, end)` of the groups on this device."""
        if not collectives.shards_experts() or self.divides_groups():
            return 0, self.groups
        bounds = shard_bounds(self.groups, collectives.num_replicas())
        return bounds[collectives.replica_id()]

    def pad_to_all_groups(self, values):
        """Pads `[G_r, ...]` values of this device to `[G, ...]`, with 0 for all other groups."""
        if values.shape.rank == 0:
            return values
        begin, end = self._local_groups()
        paddings = [[begin, self.groups - end]] + [[0, 0]] * (values.shape.rank - 1)
        return tf.pad(values, paddings)

    def loss(self, sums):
        outer, inner = sums["outer"], sums["inner"]
        all_experts = {"importance": sums["importance"], "load": sums["load"]}
        if "smooth_load" in outer or "smooth_load" in inner:
            all_experts["smooth_load"] = hierarchical_load(
                outer.get("smooth_load", outer["load"]),
                inner.get("smooth_load", inner["load"]),
                inner["tokens"],
            )
        balancing = weighted_losses(
            all_experts, (self.importance_weight, importance_loss), (self.load_weight, load_loss)
        )
        secondary = self.secondary.loss_as_level(inner)
        if secondary is not None:
            secondary = tf.reduce_mean(secondary)
        return add_losses(balancing, self.primary.loss_as_level(outer), secondary)

    def measures(self, sums):
        levels = self.primary.measures(sums["outer"]), self.secondary.measures(sums["inner"])
        metrics = {}
        for name in self.METRICS:
            values = [level[name] for level in levels if name in level]
            if values and name not in LEVEL_METRICS:
                metrics[name] = tf.reduce_mean(tf.stack(values))
        if "routed" in sums:
            tokens, load = sums["tokens"], tf.reduce_sum(sums["load"])
            metrics["experts_per_token"] = tf.math.divide_no_nan(load, tokens)
            metrics["unrouted"] = tf.math.divide_no_nan(tokens - sums["routed"], tokens)
        return metrics

    def update(self, sums, micro_step=WHOLE_STEP):
        begin, end = self._local_groups()
        inner = sums["inner"].items()
        inner = {name: v[begin:end] if v.shape.rank else v for name, v in inner}
        self.primary.update(sums["outer"], micro_step)
        self.secondary.update(inner, micro_step)

    def noise_deviation(self, inputs, groups=None):
        dispatcher = Local(self.primary.route(inputs).assignments)
        rows = dispatcher.dispatch_kept(inputs)
        groups = groups_of(dispatcher)
        levels = {
            "primary": self.primary.noise_deviation(inputs),
            "secondary": self.secondary.noise_deviation(rows, groups),
        }
        return {
            f"{level}_{name}": value
            for level, deviations in levels.items()
            for name, value in deviations.items()
        }

    def ops_per_timestep(self, input_dim):
        per_group = self.secondary.ops_per_timestep(input_dim)
        return self.primary.ops_per_timestep(input_dim) + self.primary.num_selected * per_group

    def kept_for_backward(self, input_dim):
        per_group = self.secondary.kept_for_backward(input_dim)
        return self.primary.kept_for_backward(input_dim) + self.primary.num_selected * per_group

    @classmethod
    def current_settings(cls, settings):
        gates = {
            name: flat_gate(name, settings[name])
            for name in ("primary", "secondary")
            if settings.get(name) is not None
        }
        estimates_load = any_estimates_load(*gates.values())
        settings = {**settings, **gates}
        return without_load_loss(settings) if estimates_load is False else settings

    def get_config(self):
        config = super().get_config()
        config.pop("num_groups")
        return {
            **config,
            "groups": self.groups,
            "primary": keras.saving.serialize_keras_object(self.primary),
            "secondary": keras.saving.serialize_keras_object(self.secondary),
            "importance_weight": self.importance_weight,
            "load_weight": self.load_weight,
        }


def flat_gate(name, gate):
    """Resolves an argument of `Hierarchical` to a flat `Gate`."""
    gate = gate_of(name, gate, FLAT_GATES)
    if gate.secondary is not None:
        raise ValueError(
            f"{name} must be a gate for a level of a hierarchical mixture, such as NoisyTopK(k=2), "
            f"got {gate!r}"
        )
    if name == "secondary" and gate.needs_sequences:
        raise ValueError(
            f"{name} must not need the sequences of its tokens, as {gate!r} does: the rows of a "
            "group are in no order of sequences"
        )
    if gate.needs_token_ids:
        raise ValueError(
            f"{name} must not need token ids, as {type(gate).__name__} does: use it without groups"
        )
    return gate


def nearest_divisors(n, target, max_count=12):
    """The divisors of n that are nearest to `target`, at most `max_count` of them, ascending.

    For n above 2^32 only divisors d with d or n/d up to 2^16 are considered.
    """
    last = min(math.isqrt(n), 2**16)
    small = [d for d in range(1, last + 1) if n % d == 0]
    divisors = {*small, *(n // d for d in small)}
    return sorted(sorted(divisors, key=lambda d: abs(d - target))[:max_count])
