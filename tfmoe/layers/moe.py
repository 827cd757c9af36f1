"""The mixture-of-experts layer (eq 1).

Axes: T tokens, E experts, K selected experts per token, A = T * K assignments, D model.
"""

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.distribute import collectives
from tfmoe.distribute.exchange import plan_exchange
from tfmoe.distribute.shards import sharded
from tfmoe.layers.experts import Experts
from tfmoe.ops import balancing, dispatch
from tfmoe.ops.arguments import above_zero, positive
from tfmoe.ops.routing import drop_over_capacity


@keras.saving.register_keras_serializable("tfmoe")
class MoE(keras.layers.Layer):
    """Sparsely-gated mixture of experts: `y = Σ_i G(x)_i E_i(x)`, only the experts with `G(x)_i >
    0` evaluated (eq 1).

    Args:
        num_experts: n.
        hidden_units: width of an expert's hidden layers.
        gate: a `tfmoe.gating.Gate`, the name of one (`"noisy_top_k"`), or a dictionary of its name
            and arguments. The layer makes its own copy: one gate object can be given to several
            layers and shares nothing between them.
        groups: `None` for a flat mixture, or the first-level branching factor of a hierarchical one
            (App. B): then `gate` is used at both levels, to pick groups and to pick experts within
            a group, with k at each.
        depth: hidden layers of an expert.
        activation: of an expert's hidden layers.
        use_bias: whether experts have biases (the paper's have none).
        recompute: whether hidden activations are computed again in the backward pass instead of
            kept (App. D).
        capacity_factor: `None` drops nothing. Otherwise an expert takes at most
            `ceil(capacity_factor · A / n)` tokens of a batch and the rest, later in the batch, go
            without it.
        kernel_initializer: for each expert, as for one dense layer.

    Call arguments:
        inputs: `[..., D]` float. All leading axes are tokens (the layer is applied convolutionally,
            to all at once).
        mask: `[...]` bool (or its first axes only), `False` for padding: such positions are not
            routed, count in no loss or metric, and give 0.
        training: whether the gate draws noise and adds its balancing losses (`add_loss`).

    Returns:
        `[..., D]` in the layer's compute type.

    Metrics of `fit` and `evaluate`, averaged over the batches of an epoch, prefixed by the layer's
    name: `cv_importance` and `cv_load` (coefficients of variation), `max_over_mean_load`,
    `unused_experts` (fraction that received no token in a batch) and `dropped` (fraction of
    assignments over capacity). Load here is the count of tokens received. A gate can add metrics of
    its own (`Batchwise` does). A graph of any other kind measures only with `training=True`: that
    of an exported model assigns no variable.

    Raises:
        ValueError: for arguments out of range; each message names the argument, its value and what
            would be right.

    Example:
        >>> gate = NoisyTopK(k=4, importance_weight=0.1, load_weight=0.1)
        >>> layer = MoE(num_experts=32, hidden_units=1024, gate=gate)
        >>> hierarchical = MoE(num_experts=256, hidden_units=1024, groups=16, gate=NoisyTopK(k=2))
    """

    METRICS = ("cv_importance", "cv_load", "max_over_mean_load", "unused_experts", "dropped")

    def __init__(
        self,
        num_experts,
        hidden_units,
        gate="noisy_top_k",
        groups=None,
        depth=1,
        activation="relu",
        use_bias=False,
        recompute=False,
        capacity_factor=None,
        kernel_initializer="glorot_uniform",
        name=None,
        **kwargs,
    ):
        super().__init__(name=name or automatic_name(), **kwargs)
        self.supports_masking = True
        self.supports_jit = False  # XLA needs to know how many rows an expert gets
        self.num_experts = positive("num_experts", num_experts)
        self.groups = groups
        gate = gating.get(gate)
        if groups is not None:
            gate = gating.Hierarchical(groups=groups, primary=gate)
        # The variables' type: under mixed precision the gate computes in float32.
        self.gate = gate.for_experts(self.num_experts, name="gate", dtype=self.variable_dtype)
        self.experts = Experts(
            num_experts,
            hidden_units,
            depth=depth,
            activation=activation,
            use_bias=use_bias,
            recompute=recompute,
            kernel_initializer=kernel_initializer,
            name="experts",
            dtype=self.dtype_policy,
        )
        self.capacity_factor = (
            None if capacity_factor is None else above_zero("capacity_factor", capacity_factor)
        )
        if self.capacity_factor is not None and self.gate.selects_pairs:
            raise ValueError(
                f"capacity_factor must be None with {type(gate).__name__}, whose experts take "
                f"equally many tokens, got {capacity_factor}"
            )
        self.use_trackers = {
            name: MeanOfMeasured(name=f"{self.name}_{name}")
            for name in (*self.METRICS, *self.gate.METRICS)
        }

    def build(self, input_shape):
        input_dim = input_shape[-1]
        if input_dim is None:
            raise ValueError(
                f"inputs of {self.name} must have a known last dimension, got shape "
                f"{tuple(input_shape)}"
            )
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_dim})
        self.gate.build((None, input_dim))
        # Whole groups stay together, on the device of their secondary gate (App. B).
        with sharded(together=self.num_experts // (self.groups or self.num_experts)):
            self.experts.build((None, input_dim))
        # Keras does not show a metric's variables to TensorFlow, whose SavedModel must have them.
        self._tracked_by_tensorflow = [
            variable.value for metric in self.use_trackers.values() for variable in metric.variables
        ]

    def call(self, inputs, mask=None, training=False):
        tokens, kept = self._real_tokens(inputs, mask)
        outputs = self._mix(tokens, training)
        if kept is not None:
            num_positions = tf.reduce_prod(tf.shape(inputs)[:-1])  # a mask may have fewer axes
            shape = tf.cast([num_positions, outputs.shape[-1]], kept.dtype)
            outputs = tf.scatter_nd(kept, outputs, shape)
        outputs = tf.reshape(outputs, tf.shape(inputs))
        outputs.set_shape(inputs.shape)
        return outputs

    def route(self, inputs, mask=None):
        """How the layer routes tokens at evaluation, without computing any expert.

        Args:
            inputs, mask: as for `call`.

        Returns:
            `tfmoe.gating.Routing` for the T tokens that are not masked, in order.
        """
        tokens, _ = self._real_tokens(inputs, mask)
        return self.gate.route(tf.cast(tokens, self.gate.compute_dtype))

    def _real_tokens(self, inputs, mask):
        """`[T, D]` tokens that are not masked; their places `[T, 1]`, or `None` without a mask."""
        tokens = tf.reshape(inputs, [-1, inputs.shape[-1]])
        if mask is None:
            return tokens, None
        kept = tf.where(flat_mask(mask, inputs))
        return tf.gather_nd(tokens, kept), kept

    def _mix(self, tokens, training):
        """`[T, D]` to `[T, D]`."""
        if self.groups is not None and collectives.num_replicas() > 1:
            return self._mix_groups_across_devices(tokens, training)
        routing = self.gate(tokens, training=training)
        plan, selected = routing.pairs, None
        if plan is None:
            experts, selected = self._within_capacity(routing.experts)
            plan = dispatch.plan(experts, self.num_experts)
        exchange = plan_exchange(plan, routing.gates, self.num_experts)
        self._track(routing, exchange.counts_of_all, selected, training)
        rows = self.experts(exchange.dispatch(tokens), exchange.counts)
        return exchange.combine(rows, tf.shape(tokens)[0])

    def _mix_groups_across_devices(self, tokens, training):
        """`_mix` where groups of experts lie on several devices: tokens travel by the primary gate
        alone, once there and once back, and within a device are routed on (App. B).
        """
        gate, per_group = self.gate, self.num_experts // self.groups
        primary = gate.primary.select(tokens, training=training)
        plan = primary.pairs if gate.selects_pairs else dispatch.plan(primary.experts, self.groups)
        exchange = plan_exchange(plan, primary.gates, self.groups)
        rows, weights = exchange.dispatch(tokens), exchange.dispatch_gates()
        num_arrived = tf.reduce_sum(exchange.counts)
        padding = tf.shape(rows)[0] - num_arrived
        rows, weights = rows[:num_arrived], weights[:num_arrived]

        num_groups = gate.secondary.num_local_groups
        inputs = rows
        if gate.selects_pairs and training:  # every group took equally many
            num_rows = num_arrived // max(num_groups, 1)
            inputs = tf.reshape(rows, [num_groups, num_rows, rows.shape[-1]])
        secondary = gate.secondary.select(inputs, training=training, group_sizes=exchange.counts)
        selected = None
        if gate.selects_pairs:
            inner = secondary.pairs
        else:
            group = tf.repeat(tf.range(num_groups), exchange.counts)
            of_all = tf.reduce_sum(exchange.counts_of_all) * gate.secondary.num_selected
            experts, selected = self._within_capacity(
                group[:, None] * per_group + secondary.experts, num_groups * per_group, of_all
            )
            inner = dispatch.plan(experts, num_groups * per_group)
        routing, counts = gate.route_within(
            primary, secondary, exchange, weights, inner.counts, tf.shape(tokens)[0]
        )
        if training:
            gate.add_losses(routing)
        self._track(routing, counts, selected, training)
        results = self.experts(dispatch.dispatch(rows, inner), inner.counts)
        results = dispatch.combine(results, tf.cast(secondary.gates, results.dtype), inner)
        return exchange.combine(tf.pad(results, [[0, padding], [0, 0]]), tf.shape(tokens)[0])

    def _within_capacity(self, experts, num_experts=None, selected=None):
        """Drops what is over the capacity of the experts.

        Args:
            experts: `[T, K]` expert ids.
            num_experts: of which they are; `None` for all, to which every replica sends.
            selected: number of assignments of the global batch; with `num_experts`.

        Returns:
            `[T, K]`, `num_experts` where an assignment is dropped; and the number of assignments of
            the global batch, `None` if nothing can be dropped.
        """
        if self.capacity_factor is None:
            return experts, None
        before = 0
        if num_experts is None:
            num_experts = self.num_experts
            counts = balancing.count(experts, num_experts, tf.int32)
            counts = collectives.all_gather(tf.ensure_shape(counts, [num_experts]))
            before = tf.reduce_sum(counts[: collectives.replica_id()], axis=0)
            selected = tf.reduce_sum(counts)
        capacity = self.capacity_factor * tf.cast(selected, tf.float32) / self.num_experts
        capacity = tf.cast(tf.math.ceil(capacity), tf.int32)
        return drop_over_capacity(experts, num_experts, capacity, before), selected

    def _track(self, routing, counts, selected, training):
        if not (training or collectives.in_step() or tf.executing_eagerly()):
            return  # the graph of an exported model
        load = tf.cast(counts, tf.float32)
        importance = tf.cast(routing.importance, tf.float32)
        mean = tf.reduce_mean(load)
        dropped = tf.constant(0.0)
        if selected is not None:
            selected = tf.cast(selected, tf.float32)
            dropped = tf.math.divide_no_nan(selected - tf.reduce_sum(load), selected)
        values = {
            "cv_importance": tf.sqrt(balancing.cv_squared(importance)),
            "cv_load": tf.sqrt(balancing.cv_squared(load)),
            "max_over_mean_load": tf.math.divide_no_nan(tf.reduce_max(load), mean),
            "unused_experts": tf.reduce_mean(tf.cast(tf.equal(load, 0), tf.float32)),
            "dropped": dropped,
            **(routing.measures or {}),
        }
        for name, value in values.items():
            # All replicas add the same; together they count once. The weight hangs on the value: a
            # step that finds no more data must not count.
            weight = tf.ones_like(value) / collectives.num_replicas()
            self.use_trackers[name].update_state(value, weight)

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def parameter_count(self, input_dim):
        """Weights of the layer for inputs of width `input_dim`, gates included."""
        return self.gate.parameter_count(input_dim) + self.experts.parameter_count(input_dim)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: its K experts, and the gates (the paper's count)."""
        selected = self.gate.num_selected * self.experts.ops_per_row(input_dim)
        return selected + self.gate.ops_per_timestep(input_dim)

    def get_config(self):
        gate = self.gate.primary if self.groups is not None else self.gate
        expert_config = self.experts.get_config()
        return {
            **super().get_config(),
            **{name: expert_config[name] for name in EXPERT_ARGUMENTS},
            "num_experts": self.num_experts,
            "gate": keras.saving.serialize_keras_object(gate),
            "groups": self.groups,
            "capacity_factor": self.capacity_factor,
        }


@keras.saving.register_keras_serializable("tfmoe")
class MeanOfMeasured(keras.metrics.Mean):
    """A mean that is NaN, not 0, if there was nothing to measure."""

    def result(self):
        mean = super().result()
        return tf.where(tf.equal(self.count, 0), tf.constant(float("nan"), mean.dtype), mean)


EXPERT_ARGUMENTS = (
    "hidden_units",
    "depth",
    "activation",
    "use_bias",
    "recompute",
    "kernel_initializer",
)


def flat_mask(mask, inputs):
    """`[T]` bool from a mask of all axes of `inputs` but the last, or of the first of them."""
    mask = tf.cast(mask, tf.bool)
    missing = inputs.shape.rank - 1 - mask.shape.rank
    mask = tf.reshape(mask, tf.concat([tf.shape(mask), tf.ones([missing], tf.int32)], axis=0))
    return tf.reshape(tf.broadcast_to(mask, tf.shape(inputs)[:-1]), [-1])


def automatic_name():
    """ "moe", "moe_1", …: Keras' own rule would write "mo_e"."""
    uid = keras.backend.get_uid("moe")
    return "moe" if uid == 1 else f"moe_{uid - 1}"
