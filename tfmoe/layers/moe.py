"""The mixture-of-experts layer (eq 1).

Axes: T tokens, E experts, D model.
"""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.distribute.capacity import PRIORITIES
from tfmoe.layers.examples import flatten, unflatten
from tfmoe.layers.expert_metrics import Mode, expert_metrics_or_none, mode_of
from tfmoe.layers.gate_inputs import gate_inputs_of
from tfmoe.layers.global_sums import apply_sums
from tfmoe.layers.mixing import Limit, mix
from tfmoe.layers.mixture_layer import MixtureLayer, automatic_name, check_not_compiled
from tfmoe.layers.positions import at_positions, real_tokens
from tfmoe.layers.recording import record
from tfmoe.layers.routed_experts import make_experts
from tfmoe.layers.shared_experts import shared_experts_or_none
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Constraint, Initializer, Regularizer


@keras.saving.register_keras_serializable("tfmoe")
class MoE(MixtureLayer):
    """Sparsely-gated mixture of experts: `y = Σ_i G(x)_i E_i(x)`, where only the experts with
    `G(x)_i > 0` are computed (eq 1).

    Args:
        num_experts: n, the total number of experts.
        hidden_units: width of an expert's hidden layers. `None` with `experts`.
        gate: a `tfmoe.gating.Gate`, its name (`"noisy_top_k"`), or a dictionary of its name and
            arguments. The number of experts per token is k of the gate: `NoisyTopK(k=4)`. The layer
            copies the gate, so one gate object can be passed to several layers.
        groups: `None` for a flat mixture, or the number of groups of a hierarchical mixture
            (App. B). Then `gate` is used at both levels, to select groups and to select experts
            within a group, k at each level. For two different gates use `gate=Hierarchical(…)`.
        depth: number of hidden layers of an expert.
        activation: activation of the hidden layers; must be elementwise and have no weights.
        use_bias: whether experts have biases (the paper's have none).
        recompute: whether the backward pass computes hidden activations again, which saves memory
            (App. D).
        capacity_factor: `None` for no limit: no token is dropped. Otherwise an expert accepts at
            most `ceil(capacity_factor · A / n)` of the A assignments of a training batch. A dropped
            assignment adds nothing to the output of its token; the output of a token without any
            expert is 0, so put the layer in a residual connection (`Residual`).
        evaluation_capacity_factor: the same outside of training. With a limit the output for a
            token depends on the rest of its batch.
        capacity_priority: which assignments an expert keeps: `"position"` (the first in the batch),
            `"choice"` (first choices of tokens before second choices) or `"weight"` (the largest
            weights).
        metrics: `"summary"`, `"all"` or `None`: which of the metrics below `fit` and `evaluate`
            report.
        kernel_initializer: initializer of each expert's kernels, as for a dense layer.
        gated: whether every hidden layer of an expert is gated, `activation(x · W_gate) * (x ·
            W_up)` (Shazeer 2020): `activation="silu"` makes SwiGLU experts, as in Mixtral and
            DeepSeek, `"gelu"` GEGLU experts.
        shared_experts: number of experts, in addition to `num_experts`, that compute every token.
            Their outputs are added without a weight (DeepSeekMoE, Dai et al. 2024): `y = Σ_i
            E_i^shared(x) + Σ_i G(x)_i E_i(x)`. A dropped token still has them. They are one network
            with `shared_experts · hidden_units` hidden units, and not sharded over devices.
        shared_gate: whether the output of the shared experts is multiplied by `sigmoid(x · w)`
            (Qwen2-MoE).
        experts: `None` for feed-forward experts; or a Keras layer that is not built, as the
            description of an expert: each expert is such a layer with weights of its own. The
            output can have another shape than the input. For several layers use `keras.Sequential`
            without an `Input`. Its regularizers and constraints of weights are those of each
            expert. Layers with a state (`BatchNormalization`), random numbers (`Dropout`) or losses
            of activations are refused. For examples of several axes, such as images, see
            `gate_inputs`.
        expert_dropout: the probability that a hidden activation of an expert is dropped in
            training, `0 <= expert_dropout < 1` (Fedus et al. 2021, "Switch Transformers"); also in
            shared experts. Kept activations are divided by `1 - expert_dropout`.
        output_units: width of the outputs; `None` for the width of the inputs. Also of shared
            experts, as the following arguments.
        bias_initializer: initializer of each expert's biases.
        kernel_regularizer: regularizer of each expert's kernels, as for a dense layer. The terms of
            all experts are added up.
        bias_regularizer: the same for biases.
        kernel_constraint: constraint of each expert's kernels, as for a dense layer.
        bias_constraint: the same for biases.
        name: the layer's name, the prefix of the metrics; `None` for `moe`, `moe_1`, …

    Call arguments:
        inputs: `[..., D]` float; all positions of the leading axes are tokens. With `experts`, the
            axes that `gate_inputs` does not have are those of an example.
        mask: `[...]` bool (or its first axes only), `False` for padding: padding is not routed, is
            not counted in losses and metrics, and gives 0.
        training: whether the gate draws noise and adds its balancing losses (`add_loss`), and
            experts apply dropout.
        gate_inputs: `[..., Dg]` float, what the gate reads instead of the inputs, with the leading
            axes of `inputs` (Nowlan & Hinton 1990). A gate with `needs_token_ids`, such as `Hash`,
            needs the token ids here, `[...]` integers. With `experts` it can have fewer axes than
            the inputs: with `[B, Dg]`, each of B images `[B, height, width, channels]` is a token.

    Returns:
        `[..., D]` in the layer's compute dtype; `[..., output_units]`; or with `experts`, the
        output of the layer for each token.

    Metrics of `fit` and `evaluate`, averaged over the batches of an epoch. Load is the number of
    tokens that an expert receives.

    - `metrics="summary"`: values of all mixtures of the model together, however many there are.
      `moe_balancing_loss` is the sum of their balancing losses, which `loss` contains, in training
      only; `moe_max_over_mean_load`, `moe_unused_experts` (fraction of experts that received no
      token in a batch) and `moe_dropped` (fraction of assignments beyond the capacity, if a mixture
      has one) are those of the mixture with the largest value. If a mixture with `metrics="all"`
      has the name `moe`, the prefix is `moe_summary`.
    - `metrics="all"`: values of this mixture, prefixed with its name: the same, `cv_importance` and
      `cv_load` (coefficients of variation), `selected_per_token` (assignments per token, before any
      capacity) and those of the gate (`Batchwise` has some).
    - `metrics=None`: nothing is measured.

    `model.evaluate` then returns more than the loss and the metrics of `compile`: read its values
    by name with `return_dict=True`, or set `metrics=None`. `True` means `"all"`, `False` `None`.

    Raises:
        ValueError: an argument is out of range; the message names it and the valid values.

    Example:
        >>> gate = NoisyTopK(k=4, importance_weight=0.1, load_weight=0.1)
        >>> layer = MoE(num_experts=32, hidden_units=1024, gate=gate)
        >>> hierarchical = MoE(num_experts=256, hidden_units=1024, groups=16, gate=NoisyTopK(k=2))
        >>> convolutions = MoE(num_experts=8, experts=keras.layers.Conv2D(16, 3))
        >>> convolutions(tf.ones([2, 9, 9, 3]), gate_inputs=tf.ones([2, 5])).shape
        TensorShape([2, 7, 7, 16])
    """

    residual_activation = "sigmoid"

    def __init__(
        self,
        num_experts: int,
        hidden_units: int | None = None,
        gate: gating.Gate | str | dict = "noisy_top_k",
        groups: int | None = None,
        depth: int = 1,
        activation: Activation = "relu",
        use_bias: bool = False,
        recompute: bool = False,
        capacity_factor: float | None = None,
        evaluation_capacity_factor: float | None = None,
        capacity_priority: Literal["position", "choice", "weight"] = "position",
        metrics: Mode = "summary",
        kernel_initializer: Initializer = "glorot_uniform",
        gated: bool = False,
        shared_experts: int = 0,
        shared_gate: bool = False,
        experts: keras.Layer | dict | None = None,
        expert_dropout: float = 0.0,
        output_units: int | None = None,
        bias_initializer: Initializer = "zeros",
        kernel_regularizer: Regularizer = None,
        bias_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        bias_constraint: Constraint = None,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(name=name or automatic_name("moe"), **kwargs)
        self.supports_masking = True
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.groups = groups
        gate = gating.get(gate)
        if groups is not None:
            if gate.groups is not None:
                raise ValueError(f"groups must be None with gate=Hierarchical(…), got {groups!r}")
            gate = gating.Hierarchical(groups=groups, primary=gate)
        # The dtype of the variables: under mixed precision the gate computes in float32.
        self.gate = gate.for_experts(self.num_experts, name="gate", dtype=self.variable_dtype)
        network = {
            "hidden_units": hidden_units,
            "depth": depth,
            "activation": activation,
            "use_bias": use_bias,
            "recompute": recompute,
            "kernel_initializer": kernel_initializer,
            "gated": gated,
            "expert_dropout": expert_dropout,
            "output_units": output_units,
            "bias_initializer": bias_initializer,
            "kernel_regularizer": kernel_regularizer,
            "bias_regularizer": bias_regularizer,
            "kernel_constraint": kernel_constraint,
            "bias_constraint": bias_constraint,
            "dtype": self.dtype_policy,
        }
        together = self.num_experts // (self.gate.groups or self.num_experts)
        self.experts = make_experts(self.num_experts, experts, together, network)
        self.shared = shared_experts_or_none(shared_experts, shared_gate, network)
        self.capacity_factor = arguments.positive_or_none("capacity_factor", capacity_factor)
        self.evaluation_capacity_factor = arguments.positive_or_none(
            "evaluation_capacity_factor", evaluation_capacity_factor
        )
        priority = arguments.one_of("capacity_priority", capacity_priority, PRIORITIES)
        self.capacity_priority = priority
        # XLA computes experts that are layers on as many rows as an expert can have.
        has_capacity = self.capacity_factor or self.gate.token_capacity(training=True)
        self.supports_jit = experts is None or bool(has_capacity)
        self.expert_metrics = expert_metrics_or_none(self, self.gate, metrics)

    @property
    def needs_token_ids(self) -> bool:  # type: ignore[override]
        return self.gate.needs_token_ids

    def build(self, inputs_shape, gate_inputs_shape=None):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", inputs_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_dim})
        gate_dim = input_dim
        if gate_inputs_shape is not None and not self.needs_token_ids:
            name = f"gate_inputs of {self.name}"
            gate_dim = arguments.last_dimension(name, gate_inputs_shape)
        self.gate.build((None, gate_dim))
        self.experts.build((None, *self._example_shape(inputs_shape, gate_inputs_shape)))
        if self.shared is not None:
            self.shared.build((None, input_dim))

    def _example_shape(self, inputs_shape, gate_inputs_shape):
        """The shape of an expert's input: `(D,)`; or for experts that are layers, the axes of the
        inputs that `gate_inputs` does not have.
        """
        num_leading = len(inputs_shape) - 1
        if gate_inputs_shape is not None:
            num_leading = len(gate_inputs_shape) - (0 if self.needs_token_ids else 1)
        return self.experts.example_shape_of(inputs_shape, num_leading)

    def call(self, inputs, mask=None, training=False, gate_inputs=None):
        check_not_compiled(self)
        inputs = self.dense_inputs(inputs)
        inputs = flatten(inputs, self.experts.example_shape)
        tokens, positions = real_tokens(inputs, mask)
        gate_inputs = gate_inputs_of(self, inputs, tokens, mask, gate_inputs)
        record(self, gate_inputs, positions, inputs, training)
        factor = self.capacity_factor if training else self.evaluation_capacity_factor
        limit = Limit(factor, self.capacity_priority)
        outputs, sums = mix(self.gate, self.experts, tokens, training, limit, gate_inputs)
        if self.shared is not None:
            outputs += self.shared(tokens, training=training)
        apply_sums(self, self.gate, sums, training, self.expert_metrics)
        outputs = at_positions(outputs, positions, inputs, mask)
        return unflatten(outputs, self.experts.output_shape)

    def route(
        self,
        inputs: tf.Tensor,
        mask: tf.Tensor | None = None,
        gate_inputs: tf.Tensor | None = None,
    ) -> gating.Routing:
        """Routes tokens as in evaluation, before any capacity; no expert is computed.

        Args:
            inputs: as for a call.
            mask: as for a call.
            gate_inputs: as for a call.

        Returns:
            `tfmoe.gating.Routing` of the T tokens that are not masked, in order.
        """
        inputs = self.dense_inputs(inputs)
        if not self.built:
            shape = None if gate_inputs is None else tuple(tf.convert_to_tensor(gate_inputs).shape)
            self.build(tuple(inputs.shape), shape)
        inputs = flatten(inputs, self.experts.example_shape)
        tokens, _ = real_tokens(inputs, mask)
        return gate_inputs_of(self, inputs, tokens, mask, gate_inputs).route(self.gate)

    def step(self, inputs, state, gate_inputs=None):
        return self(inputs, gate_inputs=gate_inputs), state

    def compute_output_shape(self, inputs_shape, gate_inputs_shape=None):
        example_shape = self._example_shape(inputs_shape, gate_inputs_shape)
        output_shape = self.experts.compute_output_shape((None, *example_shape))[1:]
        return (*tuple(inputs_shape)[: -len(example_shape)], *output_shape)

    @classmethod
    def from_config(cls, config):
        # Version 0.1 had no argument `metrics`.
        return super().from_config({"metrics": "all", **config})

    def get_config(self):
        gate = self.gate.primary if self.groups is not None else self.gate
        return {
            **super().get_config(),
            "experts": None,
            **self.experts.own_config(),
            "gate": keras.saving.serialize_keras_object(gate),
            "groups": self.groups,
            "capacity_factor": self.capacity_factor,
            "evaluation_capacity_factor": self.evaluation_capacity_factor,
            "capacity_priority": self.capacity_priority,
            "metrics": mode_of(self.expert_metrics),
            "shared_experts": 0 if self.shared is None else self.shared.num_shared,
            "shared_gate": self.shared is not None and self.shared.has_gate,
        }
