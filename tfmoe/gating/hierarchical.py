"""Two levels of gates (App. B): a primary gate picks groups of experts, a secondary gate picks
within each group.

Axes: T tokens, G groups (first-level branching factor), E experts, D model, A rows that are sent to
groups; G_r groups of this replica.
"""

import math

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.exchange import Local
from tfmoe.distribute.shards import shard_bounds, sharded
from tfmoe.gating.gate import Gate
from tfmoe.gating.registry import FLAT_GATES, gate_of
from tfmoe.gating.routing import Groups, Routing
from tfmoe.ops.arguments import non_negative, positive
from tfmoe.ops.assignments import compose
from tfmoe.ops.balancing import (
    add_losses,
    hierarchical_load,
    importance_loss,
    load_loss,
    weighted_losses,
)

# Of the tokens of a level, not of those of the mixture.
MEASURES_OF_LEVELS = ("experts_per_token", "unrouted")


@keras.saving.register_keras_serializable("tfmoe")
class Hierarchical(Gate):
    """`G(x)_ij = G_primary(x)_i · G_i(x)_j` (eq 12): E experts in G groups, experts `i·E/G …
    (i+1)·E/G - 1` in group i.

    A secondary gate is only computed for the tokens that its group gets, so that the cost of gating
    grows with `G + K1·E/G` and not with E. With `Softmax` at both levels this is the dense
    hierarchical mixture.

    Usually written as `MoE(num_experts=256, groups=16, gate=NoisyTopK(k=2))`: the same gate at both
    levels.

    Args:
        groups: G, a divisor of the number of experts.
        primary: the gate that selects groups: a `Gate`, or a name or dictionary as `MoE` takes it.
        secondary: the gate that selects within a group; `None` for the settings of `primary`. It
            can be of another kind.
        importance_weight: w_importance for `Importance_H` (eq 13); `None` for that of `primary`.
        load_weight: w_load for `Load_H` (eq 14); `None` for that of `primary`. These two losses
            balance both levels; the weights of `primary` and `secondary` themselves add no loss.
            Other losses of these gates are added: of `primary`, and the mean over the groups of
            `secondary`.

    Metrics: those of the gates at the levels; where both have one, the mean of the two.
    `experts_per_token` and `unrouted` are those of the whole mixture, in evaluation only.

    Raises:
        ValueError: if `groups` does not divide the number of experts, or a gate's k is too large
            for its level.
    """

    kernel_names = ()

    def __init__(
        self,
        groups,
        primary,
        secondary=None,
        importance_weight=None,
        load_weight=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if self.num_groups is not None:
            raise ValueError("a Hierarchical gate cannot be a level of another one")
        primary = flat_gate("primary", primary)
        secondary = primary if secondary is None else flat_gate("secondary", secondary)
        weights = {"importance_weight": importance_weight, "load_weight": load_weight}
        for name, weight in weights.items():
            weight = getattr(primary, name) if weight is None else weight
            setattr(self, name, non_negative(name, weight))
        self.groups = positive("groups", groups)
        self.primary, self.secondary = primary, secondary
        if self.num_experts is not None:
            self._make_levels()

    def _make_levels(self):
        if self.num_experts % self.groups:
            nearest = nearest_divisors(self.num_experts, self.groups)
            raise ValueError(
                f"groups must divide num_experts={self.num_experts}, got groups={self.groups}; "
                f"possible values: {', '.join(map(str, nearest))}"
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
    def num_selected(self):
        return self.primary.num_selected * self.secondary.num_selected

    def build(self, input_shape):
        super().build(input_shape)
        self.primary.build(input_shape)
        with sharded():
            self.secondary.build(input_shape)

    def route(self, inputs, training=False, groups=None):
        """Routes through both levels on one device. A mixture does it in two steps, between which
        the rows travel: `primary`, then `secondary`.
        """
        outer = self.primary.route(inputs, training=training)
        way = Local(outer.assignments)
        groups = Groups(way.counts, way.rows_per_expert)
        inner = self.secondary.route(way.dispatch_kept(inputs), training=training, groups=groups)
        assignments = compose(outer.assignments, inner.assignments)
        return Routing(assignments, self.sums_of_levels(outer, inner, way, training))

    def sums_of_levels(self, outer, inner, way, training):
        """Sums over this device's tokens, and over the rows that its groups received.

        Args:
            outer: `Routing` of `primary`.
            inner: `Routing` of `secondary`.
            way: on which the rows came.
            training: as for `route`.

        Returns:
            As every gate's, `[E]` for all experts; with `outer` and `inner`, the sums of the
            levels, those of the groups of other devices being 0.
        """
        assignments = inner.assignments
        weights = tf.gather(way.weights(), assignments.tokens) * assignments.weights
        load = inner.sums["load"]
        importance = assignments.sum_by_expert(tf.cast(weights, load.dtype))
        inner_sums = {name: self.of_all_groups(values) for name, values in inner.sums.items()}
        importance = self.of_all_groups(tf.reshape(importance, tf.shape(load)))
        sums = {
            "tokens": outer.sums["tokens"],
            "importance": tf.reshape(importance, [self.num_experts]),
            "load": tf.reshape(inner_sums["load"], [self.num_experts]),
            "outer": outer.sums,
            "inner": inner_sums,
        }
        if not training and "unrouted" in self.METRICS:
            per_row = tf.math.bincount(
                assignments.tokens, minlength=way.num_rows(), maxlength=way.num_rows()
            )
            routed = way.sum_by_token(tf.cast(per_row, load.dtype)) > 0
            sums["routed"] = tf.reduce_sum(tf.cast(routed, load.dtype))
        return sums

    def _own_groups(self):
        """`(begin, end)` of this device's groups."""
        if not collectives.shards_experts():
            return 0, self.groups
        bounds = shard_bounds(self.groups, collectives.num_replicas())
        return bounds[collectives.replica_id()]

    def of_all_groups(self, values):
        """`[G_r, ...]` of this device to `[G, ...]`, 0 for the groups of others."""
        if values.shape.rank == 0:
            return values
        begin, end = self._own_groups()
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
        found = {}
        for name in self.METRICS:
            values = [level[name] for level in levels if name in level]
            if values and name not in MEASURES_OF_LEVELS:
                found[name] = tf.reduce_mean(tf.stack(values))
        if "routed" in sums:
            tokens = sums["tokens"]
            found["experts_per_token"] = tf.math.divide_no_nan(tf.reduce_sum(sums["load"]), tokens)
            found["unrouted"] = tf.math.divide_no_nan(tokens - sums["routed"], tokens)
        return found

    def update(self, sums):
        begin, end = self._own_groups()
        inner = sums["inner"].items()
        self.primary.update(sums["outer"])
        self.secondary.update({name: v[begin:end] if v.shape.rank else v for name, v in inner})

    def noise_deviation(self, inputs, groups=None):
        found = {f"primary_{k}": v for k, v in self.primary.noise_deviation(inputs).items()}
        way = Local(self.primary.route(inputs).assignments)
        rows = way.dispatch_kept(inputs)
        of_groups = self.secondary.noise_deviation(rows, Groups(way.counts, way.rows_per_expert))
        return {**found, **{f"secondary_{name}": value for name, value in of_groups.items()}}

    def ops_per_timestep(self, input_dim):
        per_group = self.secondary.ops_per_timestep(input_dim)
        return self.primary.ops_per_timestep(input_dim) + self.primary.num_selected * per_group

    def kept_for_backward(self, input_dim):
        per_group = self.secondary.kept_for_backward(input_dim)
        return self.primary.kept_for_backward(input_dim) + self.primary.num_selected * per_group

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
    """The flat `Gate` that an argument of `Hierarchical` stands for."""
    gate = gate_of(name, gate, FLAT_GATES)
    if gate.secondary is not None:
        raise ValueError(
            f"{name} must be a gate for a level of a hierarchical mixture, such as NoisyTopK(k=2), "
            f"got {gate!r}"
        )
    return gate


def nearest_divisors(number, wanted, most=12):
    """Divisors of a number, the nearest to what was wanted, rising, `most` at most. Of a number
    beyond 2^32 those that are, or leave, 2^16 at most.
    """
    last = min(math.isqrt(number), 2**16)
    small = [each for each in range(1, last + 1) if number % each == 0]
    divisors = {*small, *(number // each for each in small)}
    return sorted(sorted(divisors, key=lambda each: abs(each - wanted))[:most])
