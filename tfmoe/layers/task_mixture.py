"""The mixture of one task of a `MultiGateMoE`, and checks of the arguments that describe tasks.

Axes: T tokens, D model.
"""

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.layers.expert_metrics import expert_metrics_or_none
from tfmoe.layers.global_sums import apply_sums
from tfmoe.layers.mixing import limit_assignments, with_received
from tfmoe.layers.mixture_layer import MixtureLayer
from tfmoe.ops import arguments


@keras.saving.register_keras_serializable("tfmoe")
class TaskMixture(MixtureLayer):
    """The mixture of one task of a `MultiGateMoE`: its gate, and the experts of all tasks.

    Args:
        gate: a `tfmoe.gating.Gate` for the experts that the task can select.
        experts: `tfmoe.layers.routed_experts.RoutedExperts`, shared by all tasks.
        metrics: as for `MultiGateMoE`.
    """

    def __init__(self, gate, experts, metrics, **kwargs):
        super().__init__(**kwargs)
        self.gate = gate
        self.num_experts = gate.num_experts
        self.experts = experts
        self.expert_metrics = expert_metrics_or_none(self, gate, metrics)

    def build(self, input_shape):
        self.gate.build(input_shape)

    @property
    def needs_token_ids(self) -> bool:  # type: ignore[override]
        return self.gate.needs_token_ids

    def assign(self, gate_inputs, training):
        """Routes tokens, adds the gate's loss, and updates gate and metrics.

        Args:
            gate_inputs: `tfmoe.layers.gate_inputs.GateInputs` of the T tokens.
            training: whether the step trains.

        Returns:
            `tfmoe.ops.assignments.Assignments`, within the capacity of the gate.
        """
        routing = gate_inputs.route(self.gate, training)
        num_tokens = gate_inputs.num_tokens()
        assignments = limit_assignments(
            routing.assignments, self.gate, training, num_tokens=num_tokens
        )
        sums = with_received(routing.sums, assignments, routing.assignments, tf.identity)
        apply_sums(self, self.gate, sums, training, self.expert_metrics)
        return assignments


def task_names(tasks):
    """The names of the tasks, for the argument `tasks`."""
    if isinstance(tasks, (list, tuple)):
        is_name = [isinstance(task, str) and task for task in tasks]
        if tasks and all(is_name) and len(set(tasks)) == len(tasks):
            return tuple(tasks)
        raise ValueError(f"tasks must be different names, or their number, got {tasks!r}")
    return tuple(f"task_{j}" for j in range(arguments.positive("tasks", tasks)))


def task_gates(gate, tasks):
    """The gates of the tasks, for the argument `gate`."""
    gates = list(gate) if isinstance(gate, (list, tuple)) else [gate] * len(tasks)
    if len(gates) != len(tasks):
        raise ValueError(f"gate must have an item for each of {len(tasks)} tasks, got {gate!r}")
    gates = [gating.get(each) for each in gates]
    for each in gates:
        if each.secondary is not None or each.groups is not None:
            raise ValueError(
                f"gate must have one level, because the tasks share the experts, got {each!r}"
            )
    return gates


def checked_task_experts(task_experts, tasks, num_experts):
    """Checks `task_experts`; returns it as lists."""
    if task_experts is None:
        return None
    lists = [[int(i) for i in experts] for experts in task_experts]
    for experts in lists:
        if not experts or experts != sorted(set(experts) & set(range(num_experts))):
            raise ValueError(
                f"task_experts must have ascending ids from 0 to {num_experts - 1} for each task, "
                f"got {experts}"
            )
    if len(lists) != len(tasks):
        raise ValueError(
            f"task_experts must have a list for each of {len(tasks)} tasks, got {task_experts!r}"
        )
    return lists


def checked_inputs(expert_inputs, tasks, num_experts):
    """Checks `expert_inputs`; returns it as a list."""
    if expert_inputs is None:
        return None
    inputs = [int(i) for i in expert_inputs]
    if len(inputs) != num_experts or min(inputs) < 0 or max(inputs) + 1 < len(tasks):
        raise ValueError(
            f"expert_inputs must have an index for each of {num_experts} experts, and {len(tasks)} "
            f"inputs or more, because the gate of task j reads input j, got {expert_inputs!r}"
        )
    return inputs
