"""The mixture-of-experts layer (eq 1).

Axes: T tokens, E experts, D model.
"""

from typing import Literal

import keras

from tfmoe import gating
from tfmoe.distribute.capacity import PRIORITIES
from tfmoe.layers.expert_metrics import ExpertMetrics
from tfmoe.layers.mixing import Limit, mix
from tfmoe.layers.mixture_layer import MixtureLayer, automatic_name
from tfmoe.layers.positions import at_positions, real_tokens
from tfmoe.layers.recording import record
from tfmoe.layers.routed_experts import RoutedExperts
from tfmoe.layers.settle import settle
from tfmoe.ops import arguments
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class MoE(MixtureLayer):
    """Sparsely-gated mixture of experts: `y = Σ_i G(x)_i E_i(x)`, only the experts with `G(x)_i >
    0` evaluated (eq 1).

    Args:
        num_experts: n.
        hidden_units: width of an expert's hidden layers; its output is as wide as its input.
        gate: a `tfmoe.gating.Gate`, the name of one (`"noisy_top_k"`), or a dictionary of its name
            and arguments. The layer makes its own copy: one gate object can be given to several
            layers, and they share nothing.
        groups: `None` for a flat mixture, or the first-level branching factor of a hierarchical one
            (App. B): then `gate` is used at both levels, to pick groups and to pick experts within
            a group, with k at each. `gate=Hierarchical(…)` takes two different gates.
        depth: hidden layers of an expert.
        activation: of an expert's hidden layers.
        use_bias: whether experts have biases (the paper's have none).
        recompute: whether the backward pass computes hidden activations again (App. D).
        capacity_factor: `None` drops nothing. Otherwise an expert takes at most
            `ceil(capacity_factor · A / n)` of the A assignments of a training batch.
        evaluation_capacity_factor: the same outside of training. With one, what a token gets
            depends on the rest of its batch.
        capacity_priority: which assignments an expert keeps: `"position"` (the first in the batch),
            `"choice"` (first choices of tokens before second ones) or `"weight"` (the largest).
        metrics: whether `fit` and `evaluate` measure the use of the experts.
        kernel_initializer: for each expert, as for one dense layer.

    Call arguments:
        inputs: `[..., D]` float. All leading axes are tokens (all go through at once).
        mask: `[...]` bool (or its first axes only), `False` for padding: such positions are not
            routed, count in no loss or metric, and give 0.
        training: whether the gate draws noise and adds its balancing losses (`add_loss`).

    Returns:
        `[..., D]` in the layer's compute type.

    Metrics of `fit` and `evaluate`, averaged over the batches of an epoch, prefixed by the layer's
    name: `cv_importance` and `cv_load` (coefficients of variation), `max_over_mean_load`,
    `unused_experts` (fraction that received no token in a batch) and `dropped` (fraction of
    assignments over capacity). Load here is the count of tokens received. A gate can add metrics of
    its own (`Batchwise` does). With them `model.evaluate` returns more than the loss and the
    metrics of `compile`: take its values by name, `return_dict=True`, or set `metrics=False`.

    Raises:
        ValueError: for arguments out of range; it names the argument and what would be right.

    Example:
        >>> gate = NoisyTopK(k=4, importance_weight=0.1, load_weight=0.1)
        >>> layer = MoE(num_experts=32, hidden_units=1024, gate=gate)
        >>> hierarchical = MoE(num_experts=256, hidden_units=1024, groups=16, gate=NoisyTopK(k=2))
    """

    residual_activation = "sigmoid"

    def __init__(
        self,
        num_experts: int,
        hidden_units: int,
        gate="noisy_top_k",
        groups: int | None = None,
        depth=1,
        activation="relu",
        use_bias=False,
        recompute=False,
        capacity_factor: float | None = None,
        evaluation_capacity_factor: float | None = None,
        capacity_priority: Literal["position", "choice", "weight"] = "position",
        metrics=True,
        kernel_initializer="glorot_uniform",
        name=None,
        **kwargs,
    ):
        super().__init__(name=name or automatic_name("moe"), **kwargs)
        self.supports_masking = True
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.groups = groups
        gate = gating.get(gate)
        if groups is not None:
            gate = gating.Hierarchical(groups=groups, primary=gate)
        # The variables' type: under mixed precision the gate computes in float32.
        self.gate = gate.for_experts(self.num_experts, name="gate", dtype=self.variable_dtype)
        self.experts = RoutedExperts(
            num_experts,
            hidden_units,
            depth=depth,
            activation=activation,
            use_bias=use_bias,
            recompute=recompute,
            kernel_initializer=kernel_initializer,
            name="experts",
            together=self.num_experts // (self.gate.groups or self.num_experts),
            dtype=self.dtype_policy,
        )
        self.capacity_factor = arguments.positive_or_none("capacity_factor", capacity_factor)
        self.evaluation_capacity_factor = arguments.positive_or_none(
            "evaluation_capacity_factor", evaluation_capacity_factor
        )
        priority = arguments.one_of("capacity_priority", capacity_priority, PRIORITIES)
        self.capacity_priority = priority
        metrics = arguments.boolean("metrics", metrics)
        self.expert_metrics = ExpertMetrics(self, self.gate.METRICS) if metrics else None
        track(self, metrics=self.expert_metrics)

    def build(self, input_shape):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_dim})
        self.gate.build((None, input_dim))
        self.experts.build((None, input_dim))

    def call(self, inputs, mask=None, training=False):
        self.check_not_compiled()
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        tokens, places = real_tokens(inputs, mask)
        record(self, tokens, places, inputs, training)
        factor = self.capacity_factor if training else self.evaluation_capacity_factor
        limit = Limit(factor, self.capacity_priority)
        outputs, sums = mix(self.gate, self.experts, tokens, training, limit)
        settle(self, self.gate, sums, training, self.expert_metrics)
        return at_positions(outputs, places, inputs)

    def route(self, inputs, mask=None):
        """How the gate routes tokens at evaluation, before any capacity; no expert is computed.

        Args:
            inputs, mask: as for `call`.

        Returns:
            `tfmoe.gating.Routing` for the T tokens that are not masked, in order.
        """
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        if not self.built:
            self.build(tuple(inputs.shape))
        return self.gate(real_tokens(inputs, mask)[0])

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def get_config(self):
        gate = self.gate.primary if self.groups is not None else self.gate
        return {
            **super().get_config(),
            **self.experts.own_config(),
            "gate": keras.saving.serialize_keras_object(gate),
            "groups": self.groups,
            "capacity_factor": self.capacity_factor,
            "evaluation_capacity_factor": self.evaluation_capacity_factor,
            "capacity_priority": self.capacity_priority,
            "metrics": self.expert_metrics is not None,
        }
