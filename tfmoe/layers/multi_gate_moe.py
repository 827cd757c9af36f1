"""Mixtures of several tasks, which share one evaluation of the experts (Ma et al. 2018).

Axes: T tokens, E experts, D model, J tasks.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.layers.expert_metrics import Mode, metrics_mode
from tfmoe.layers.gate_inputs import gate_inputs_of
from tfmoe.layers.mixture_layer import ExpertLayer, automatic_name, check_not_compiled
from tfmoe.layers.positions import at_positions, real_tokens
from tfmoe.layers.recording import record
from tfmoe.layers.routed_experts import RoutedExperts
from tfmoe.layers.shared_pairs import share
from tfmoe.layers.sorted_rows import run_sorted
from tfmoe.layers.task_mixture import (
    TaskMixture,
    checked_inputs,
    checked_task_experts,
    task_gates,
    task_names,
)
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Activation, Constraint, Initializer, Regularizer
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class MultiGateMoE(ExpertLayer):
    """Multi-gate mixture of experts (MMoE): `y_j = Σ_i G_j(x)_i E_i(x)`, with a gate G_j for each
    task and one set of experts (Ma et al. 2018, "Modeling Task Relationships in Multi-task Learning
    with Multi-gate Mixture-of-Experts").

    The tasks share one evaluation of the experts: an expert computes a token once, however many
    tasks select it. Ma et al. use a softmax gate, with which all experts compute all tokens; every
    other gate with one level works too. Their baseline with one gate for all tasks (OMoE) is `MoE`.

    With `task_experts` and `expert_inputs` the layer is a level of PLE (Tang et al. 2020,
    "Progressive Layered Extraction"), where a task has experts of its own beside shared ones.

    Args:
        tasks: names of the tasks, or their number, for `task_0`, `task_1`, …
        num_experts: E, the experts of all tasks together.
        hidden_units: width of an expert's hidden layers.
        gate: a `tfmoe.gating.Gate`, its name, or a dictionary of its name and arguments, copied for
            each task; or a list of these, one for each task.
        task_experts: for each task a list of the experts that its gate can select, ascending ids
            from 0; `None` for all experts.
        expert_inputs: for each expert the index of the input that it reads; `None` for one input.
        depth: number of hidden layers of an expert.
        activation: activation of the hidden layers; must be elementwise and have no weights.
        use_bias: whether experts have biases.
        recompute: whether the backward pass computes hidden activations again.
        metrics: `"summary"`, `"all"` or `None`, as for `MoE`: each task is a mixture.
        kernel_initializer: initializer of each expert's kernels, as for a dense layer.
        gated: whether every hidden layer of an expert is gated (SwiGLU, GEGLU), as for `MoE`.
        expert_dropout: dropout rate of the hidden activations of experts, as for `MoE`.
        output_units: width of the outputs; `None` for the width of the inputs.
        bias_initializer: initializer of each expert's biases.
        kernel_regularizer: regularizer of each expert's kernels, as for a dense layer. The terms of
            all experts are added up.
        bias_regularizer: the same for biases.
        kernel_constraint: constraint of each expert's kernels, as for a dense layer.
        bias_constraint: the same for biases.
        name: the layer's name; `None` for `multi_gate_moe`, `multi_gate_moe_1`, …

    Call arguments:
        inputs: `[..., D]` float; with `expert_inputs` a list of these, of one shape. The gate of
            task j reads input j.
        mask: `[...]` bool (or its first axes only), `False` for padding, which gives 0. For a list
            of inputs, one mask for all.
        training: whether gates draw noise and add their balancing losses (`add_loss`), and experts
            apply dropout.
        gate_inputs: `None`; or what the gates read instead of the inputs, as for `MoE`. If a gate
            needs token ids these are the ids, and other gates read the inputs.

    Returns:
        A list of `[..., D]`, or `[..., output_units]`, in the layer's compute dtype, one for each
        task.

    The metrics are those of `MoE` for each task, with `metrics="all"` under the names
    `NAME_TASK_cv_load` and so on. A loss of a gate
    balances the selections of its task. `tfmoe.inspection` shows each task as a mixture, with the
    name `NAME_TASK`; its experts are numbered within the task's `task_experts`.

    Raises:
        ValueError: an argument is out of range, or a gate is hierarchical.

    Example:
        >>> layer = MultiGateMoE(["click", "buy"], num_experts=8, hidden_units=16)
        >>> click, buy = layer(tf.ones([32, 4]))
        >>> click.shape
        TensorShape([32, 4])
    """

    def __init__(
        self,
        tasks: int | Sequence[str],
        num_experts: int,
        hidden_units: int,
        gate: gating.Gate | str | dict | Sequence = "softmax",
        task_experts: Sequence[Sequence[int]] | None = None,
        expert_inputs: Sequence[int] | None = None,
        depth: int = 1,
        activation: Activation = "relu",
        use_bias: bool = False,
        recompute: bool = False,
        metrics: Mode = "summary",
        kernel_initializer: Initializer = "glorot_uniform",
        gated: bool = False,
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
        super().__init__(name=name or automatic_name("multi_gate_moe"), **kwargs)
        self.supports_masking = True
        self.tasks = task_names(tasks)
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.task_experts = checked_task_experts(task_experts, self.tasks, self.num_experts)
        self.expert_inputs = checked_inputs(expert_inputs, self.tasks, self.num_experts)
        self.experts = RoutedExperts(
            num_experts,
            hidden_units,
            depth=depth,
            activation=activation,
            use_bias=use_bias,
            recompute=recompute,
            kernel_initializer=kernel_initializer,
            gated=gated,
            expert_dropout=expert_dropout,
            output_units=output_units,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            name="experts",
            dtype=self.dtype_policy,
        )
        self.metrics_mode = metrics_mode(metrics)
        self.mixtures = [
            TaskMixture(
                gate.for_experts(len(experts), name="gate", dtype=self.variable_dtype),
                self.experts,
                self.metrics_mode,
                name=f"{self.name}_{task}",
                dtype=self.dtype_policy,
            )
            for task, gate, experts in zip(
                self.tasks, task_gates(gate, self.tasks), self._experts_by_task(), strict=True
            )
        ]
        track(self, mixtures=self.mixtures)

    def _experts_by_task(self):
        return self.task_experts or [list(range(self.num_experts))] * len(self.tasks)

    @property
    def needs_token_ids(self) -> bool:
        """Whether a gate reads the token ids, which `gate_inputs` then must be."""
        return any(mixture.needs_token_ids for mixture in self.mixtures)

    def build(self, inputs_shape, gate_inputs_shape=None):
        shapes = [inputs_shape] if self.expert_inputs is None else inputs_shape
        width = arguments.last_dimension(f"inputs of {self.name}", shapes[0])
        spec = keras.layers.InputSpec(min_ndim=2, axes={-1: width})
        self.input_spec = spec if self.expert_inputs is None else [spec] * len(shapes)
        gates_read_inputs = gate_inputs_shape is None or self.needs_token_ids
        for mixture in self.mixtures:
            mixture.build((None, width if gates_read_inputs else gate_inputs_shape[-1]))
        self.experts.build((None, width))

    def call(self, inputs, mask=None, training=False, gate_inputs=None):
        check_not_compiled(self)
        inputs, mask = self._inputs(inputs), first_mask(mask)
        tokens, positions = zip(*(real_tokens(x, mask) for x in inputs), strict=True)
        assignments = []
        for mixture, of_gate in self._gate_inputs(inputs, tokens, mask, gate_inputs):
            record(mixture, of_gate, positions[0], inputs[0], training)
            assignments.append(mixture.assign(of_gate, training))
        shared = share(assignments, self._experts_by_task(), self.num_experts, self.expert_inputs)
        rows = shared.pairs.dispatch(tf.concat(tokens, axis=0))
        is_static = shared.pairs.is_static
        rows = run_sorted(
            self.experts, rows, shared.pairs.counts, training=training, is_static=is_static
        )
        return [
            at_positions(shared.combine(task, each, rows), positions[0], inputs[0], mask)
            for task, each in enumerate(assignments)
        ]

    def _gate_inputs(self, inputs, tokens, mask, gate_inputs):
        """The mixture of each task, with what its gate reads: `(TaskMixture, GateInputs)`."""
        for j, mixture in enumerate(self.mixtures):
            i = j if self.expert_inputs else 0
            read = None if self.needs_token_ids and not mixture.needs_token_ids else gate_inputs
            yield mixture, gate_inputs_of(mixture, inputs[i], tokens[i], mask, read)

    def _inputs(self, inputs):
        """The inputs as a list of tensors in the compute dtype."""
        if self.expert_inputs is None:
            return [self.dense_inputs(inputs)]
        num_inputs = max(self.expert_inputs) + 1
        if not isinstance(inputs, (list, tuple)) or len(inputs) != num_inputs:
            raise ValueError(
                f"inputs of {self.name} must be a list of {num_inputs} tensors, because "
                f"expert_inputs is {self.expert_inputs}, got {inputs!r}"
            )
        return [self.dense_inputs(x) for x in inputs]

    def route(
        self,
        inputs: tf.Tensor | Sequence[tf.Tensor],
        mask: tf.Tensor | None = None,
        gate_inputs: tf.Tensor | None = None,
    ) -> list[gating.Routing]:
        """Routes tokens as in evaluation; no expert is computed.

        Args:
            inputs: as for a call.
            mask: as for a call.
            gate_inputs: as for a call.

        Returns:
            For each task the `tfmoe.gating.Routing` of the T tokens that are not masked, to the
            experts that the task can select.
        """
        inputs = self._inputs(inputs)
        if not self.built:
            shapes = [tuple(x.shape) for x in inputs]
            shape = None if gate_inputs is None else tuple(tf.convert_to_tensor(gate_inputs).shape)
            self.build(shapes[0] if self.expert_inputs is None else shapes, shape)
        tokens = [real_tokens(x, mask)[0] for x in inputs]
        return [
            of_gate.route(mixture.gate)
            for mixture, of_gate in self._gate_inputs(inputs, tokens, mask, gate_inputs)
        ]

    def ops_per_timestep(self, input_dim: int) -> int:
        """Multiply-adds for one token if no two tasks select the same expert, as a maximum: its
        experts, E at most, and all gates.

        Args:
            input_dim: D.
        """
        selected = sum(mixture.gate.num_selected for mixture in self.mixtures)
        gates = sum(mixture.gate_ops_per_timestep(input_dim) for mixture in self.mixtures)
        return min(selected, self.num_experts) * self.experts.ops_per_row(input_dim) + gates

    def compute_mask(self, inputs, mask=None):
        """The mask of the inputs, for each task."""
        mask = first_mask(mask)
        return None if mask is None else [mask] * len(self.tasks)

    def compute_output_shape(self, inputs_shape, gate_inputs_shape=None):
        shape = inputs_shape if self.expert_inputs is None else inputs_shape[0]
        width = self.experts.output_width(shape[-1])
        return [(*shape[:-1], width)] * len(self.tasks)

    def get_config(self):
        return {
            **super().get_config(),
            **self.experts.own_config(),
            "tasks": list(self.tasks),
            "gate": [
                keras.saving.serialize_keras_object(mixture.gate) for mixture in self.mixtures
            ],
            "task_experts": self.task_experts,
            "expert_inputs": self.expert_inputs,
            "metrics": self.metrics_mode,
        }


def first_mask(mask):
    """The mask of the inputs, of which Keras gives one for each input; `None` if there is none."""
    masks = [each for each in keras.tree.flatten(mask) if each is not None]
    return masks[0] if masks else None
