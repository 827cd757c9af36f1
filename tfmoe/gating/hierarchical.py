"""Two levels of gates (App. B): a primary gate picks groups of experts, a secondary gate picks
within each group.

Axes: T tokens, G groups (first-level branching factor), E experts, D model, K1 and K2 selected at
each level.
"""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.shards import shard_bounds, sharded
from tfmoe.gating.base import Gate, PairSelection, Routing, measures_of_use, routing_of_pairs
from tfmoe.ops import balancing
from tfmoe.ops import dispatch as dispatching
from tfmoe.ops.arguments import positive


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
        secondary: the gate that selects within a group; `None` for the settings of `primary`.
        importance_weight: w_importance for `Importance_H` (eq 13); `None` for that of `primary`.
        load_weight: w_load for `Load_H` (eq 14); `None` for that of `primary`. Both levels are
            balanced by these two losses alone: the weights of `primary` and `secondary` themselves
            add no loss of their own.

    Raises:
        ValueError: if `groups` does not divide the number of experts, or a gate's k is too large
            for its level.
    """

    can_be_level = False

    def __init__(
        self,
        groups,
        primary,
        secondary=None,
        importance_weight=None,
        load_weight=None,
        **kwargs,
    ):
        primary = flat_gate("primary", primary)
        secondary = primary if secondary is None else flat_gate("secondary", secondary)
        if primary.selects_pairs != secondary.selects_pairs:
            raise ValueError(
                "primary and secondary must both be gates that give every token k experts, or both "
                f"Batchwise, got primary={primary!r} and secondary={secondary!r}"
            )
        super().__init__(
            importance_weight=primary.importance_weight
            if importance_weight is None
            else importance_weight,
            load_weight=primary.load_weight if load_weight is None else load_weight,
            **kwargs,
        )
        self.groups = positive("groups", groups)
        if self.num_groups is not None:
            raise ValueError("a Hierarchical gate cannot itself be a level of another one")
        if self.num_experts is None:
            self.primary, self.secondary = primary, secondary
            return
        if self.num_experts % self.groups:
            divisors = [d for d in range(1, self.num_experts + 1) if self.num_experts % d == 0]
            raise ValueError(
                f"groups must divide num_experts={self.num_experts}, got groups={groups}; "
                f"possible values: {', '.join(map(str, divisors))}"
            )
        self.primary = primary.for_experts(self.groups, name="primary", dtype=self.dtype_policy)
        self.secondary = secondary.for_experts(
            self.num_experts // self.groups,
            num_groups=self.groups,
            name="secondary",
            dtype=self.dtype_policy,
        )

    @property
    def selects_pairs(self):
        return self.primary.selects_pairs

    @property
    def METRICS(self):
        """Those of the gates at the levels; where both measure one, it is the mean of the two."""
        return self.primary.METRICS

    @property
    def num_selected(self):
        return self.primary.num_selected * self.secondary.num_selected

    def build(self, input_shape):
        if self.num_experts is None:
            super().build(input_shape)  # raises: it says how to set num_experts
        self.primary.build(input_shape)
        with sharded():
            self.secondary.build(input_shape)

    def route(self, inputs, training=False):
        per_group = self.num_experts // self.groups
        primary = self.primary.select(inputs, training=training)
        if isinstance(primary, PairSelection):
            return self._route_pairs(primary, inputs, training)
        plan = dispatching.plan(primary.experts, self.groups)
        secondary = self.secondary.select(
            dispatching.dispatch(inputs, plan), training=training, group_sizes=plan.counts
        )
        # The secondary selections lie sorted by group; plan.inverse [T, K1] brings them to their
        # tokens.
        experts = primary.experts[:, :, None] * per_group + tf.gather(
            secondary.experts, plan.inverse
        )
        gates = primary.gates[:, :, None] * tf.gather(secondary.gates, plan.inverse)
        experts = tf.reshape(experts, [-1, self.num_selected])
        gates = tf.reshape(gates, [-1, self.num_selected])
        importance = balancing.importance(experts, gates, self.num_experts)
        if primary.load_probability is None and secondary.load_probability is None:
            load = balancing.count(experts, self.num_experts, gates.dtype)
        else:
            load = balancing.hierarchical_load(
                self._primary_load(primary, plan, gates.dtype),
                self._secondary_load(secondary, plan.counts),
                plan.counts,
            )
        return Routing(experts, gates, importance, load)

    def route_within(self, primary, secondary, exchange, weights, counts, num_tokens):
        """The `Routing` of a mixture whose groups lie on different devices, as far as it concerns
        all of them: importance and load of every expert, the loss and the measures.

        Args:
            primary: what the primary gate selected for this replica's tokens.
            secondary: what this replica's secondary gates selected for what arrived.
            exchange: `tfmoe.distribute.exchange.Exchange` between the groups.
            weights: `[A]`, the primary gate's value of each row that arrived.
            counts: `[E_r]` int32, rows that each expert of this replica gets.
            num_tokens: of this replica.

        Returns:
            A `Routing` without experts and gates, and the `[E]` rows that each expert gets.
        """
        per_group = self.num_experts // self.groups
        bounds = shard_bounds(self.num_experts, collectives.num_replicas(), per_group)
        begin, end = bounds[collectives.replica_id()]

        def of_all(values):
            """`[E_r, …]` of this replica to `[E, …]`, 0 for the experts of others."""
            return tf.pad(values, [[begin, self.num_experts - end]])

        is_smooth = False
        if isinstance(primary, PairSelection):
            rows = tf.reshape(secondary.pairs.tokens, [-1])
            experts = secondary.pairs.experts()
            values = tf.gather(weights, rows) * tf.reshape(secondary.gates, [-1])
            importance = tf.math.unsorted_segment_sum(values, experts, end - begin)
            load = tf.cast(secondary.pairs.counts, importance.dtype)
            primary_load = tf.zeros([0], importance.dtype)
        else:
            group = tf.repeat(tf.range((end - begin) // per_group), exchange.counts)
            experts = group[:, None] * per_group + secondary.experts
            importance = balancing.importance(
                experts, weights[:, None] * secondary.gates, end - begin
            )
            probability = primary.load_probability, secondary.load_probability
            is_smooth = any(each is not None for each in probability)
            load = balancing.count(experts, end - begin, importance.dtype)
            primary_load = tf.zeros([0], importance.dtype)
            if is_smooth:
                load = tf.reshape(self._secondary_load(secondary, exchange.counts), [-1])
                primary_load = (
                    balancing.count(primary.experts, self.groups, importance.dtype)
                    if probability[0] is None
                    else tf.reduce_sum(probability[0], axis=0)
                )
        importance, counts, load, primary_load = collectives.all_reduce_sums(
            of_all(importance),
            of_all(tf.cast(counts, importance.dtype)),
            of_all(load),
            primary_load,
        )
        if is_smooth:
            load = balancing.hierarchical_load(
                primary_load, tf.reshape(load, [self.groups, per_group]), exchange.counts_of_all
            )
        loss, measures = self._loss_and_measures(primary, secondary)
        if measures is None and isinstance(primary, PairSelection):
            per_row = tf.math.unsorted_segment_sum(tf.ones_like(rows), rows, tf.size(weights))
            measures = measures_of_use(exchange.sums(per_row, num_tokens))
        return Routing(None, None, importance, load, None, loss, measures), counts

    def _loss_and_measures(self, primary, secondary):
        """The sum of what two levels of pairs add, and the mean of what they measure; `None` where
        they do not.
        """
        if getattr(primary, "loss", None) is None:
            return None, None
        measures = {
            name: 0.5 * (primary.measures[name] + value)
            for name, value in secondary.measures.items()
        }
        return primary.loss + secondary.loss, measures

    def _route_pairs(self, primary, inputs, training):
        """Routes when each level decides on pairs: those of the secondary gates are of an expert
        and a primary pair.
        """
        secondary = self.secondary.select(
            dispatching.dispatch(inputs, primary.pairs),
            training=training,
            group_sizes=primary.pairs.counts,
        )
        tokens, gates = (
            tf.gather(tf.reshape(each, [-1]), secondary.pairs.tokens)
            for each in (primary.pairs.tokens, primary.gates)
        )
        pairs = dispatching.Pairs(tokens, secondary.pairs.counts, primary.pairs.num_tokens)
        loss, measures = self._loss_and_measures(primary, secondary)
        gates = gates * secondary.gates
        return routing_of_pairs(PairSelection(pairs, gates, loss, measures), self.num_experts)

    def _primary_load(self, selection, plan, dtype):
        if selection.load_probability is None:
            return tf.cast(plan.counts, dtype)
        return tf.reduce_sum(selection.load_probability, axis=0)

    def _secondary_load(self, selection, group_sizes):
        """`[G, E/G]`: `Load_i(X⁽ⁱ⁾)`, summed over the tokens of each group."""
        probability = selection.load_probability
        if probability is None:
            probability = tf.reduce_sum(
                tf.one_hot(
                    selection.experts, self.secondary.num_experts, dtype=selection.gates.dtype
                ),
                axis=1,
            )
        num_groups = self.secondary.num_local_groups
        group = tf.repeat(tf.range(num_groups), group_sizes)
        return tf.math.unsorted_segment_sum(probability, group, num_groups)

    def parameter_count(self, input_dim):
        return self.primary.parameter_count(input_dim) + self.secondary.parameter_count(input_dim)

    def ops_per_timestep(self, input_dim):
        per_group = self.secondary.ops_per_timestep(input_dim)
        return self.primary.ops_per_timestep(input_dim) + self.primary.num_selected * per_group

    def get_config(self):
        config = super().get_config()
        config.pop("num_groups")
        return {
            **config,
            "groups": self.groups,
            "primary": keras.saving.serialize_keras_object(self.primary),
            "secondary": keras.saving.serialize_keras_object(self.secondary),
        }


def flat_gate(name, gate):
    """The flat `Gate` that an argument of `Hierarchical` stands for."""
    from tfmoe import gating  # imports this module for its list of gates

    gate = gating.get(gate)
    if not gate.can_be_level:
        raise ValueError(
            f"{name} must be a gate for a level of a hierarchical mixture, such as NoisyTopK(k=2), "
            f"got {gate!r}"
        )
    return gate
