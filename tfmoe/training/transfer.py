"""Copies the training state of a model to a model in which some layers differ.

The other layers have the same variables in both models, in the same order. For a layer that
differs, `Pair`s say which variables correspond, and how values are converted. The slots of the
optimizer follow their variables.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np

from tfmoe.layers.expert_metrics import expert_metrics_of
from tfmoe.training.state import TrainingState


class Pair(NamedTuple):
    """A variable of a layer that differs, and the variable of the other model that gets its value.

    Attributes:
        old: variable of the old model.
        new: variable of the new model.
        convert: function of the old value, a NumPy array, that returns the new value.
        convert_slots: function of the old slots of the optimizer, `{"momentum": array, …}`, and the
            shapes of the new ones; returns the new slots. Those that it leaves out start anew.
    """

    old: keras.Variable
    new: keras.Variable
    convert: Callable[[np.ndarray], np.ndarray]
    convert_slots: Callable[[dict[str, np.ndarray], dict[str, tuple]], dict[str, np.ndarray]]


class Change(NamedTuple):
    """A layer that differs between two models.

    Attributes:
        old: the layer of the old model.
        new: the layer of the new model.
        pairs: the variables that correspond. Further variables of the new layer keep their values.
    """

    old: keras.Layer
    new: keras.Layer
    pairs: Sequence[Pair]


def transfer_weights(old: keras.Model, new: keras.Model, changes: Sequence[Change]) -> None:
    """Assigns the weights and the states of random generators of a model to another one.

    Args:
        old: a built model.
        new: a built model that differs in the layers of `changes`.
        changes: the layers that differ.

    Raises:
        ValueError: if another layer differs.
    """
    for pair in pairs_of(old, new, changes):
        assign(pair.new, pair.convert(value_of(pair.old)))


def transfer_state(old: TrainingState, new: TrainingState, changes: Sequence[Change]) -> None:
    """Assigns a training state to that of another model: weights, the optimizer's variables, and
    the progress of training.

    The learning rate is that of the new optimizer. Slots are copied if both optimizers are of one
    class. The metrics of mixtures in an unfinished epoch start anew.

    Args:
        old: the state of a built and compiled model.
        new: the state of a model that differs in the layers of `changes`.
        changes: the layers that differ.

    Raises:
        ValueError: if another layer differs.
    """
    transfer_weights(old.model, new.model, changes)
    _transfer_optimizer(old.model, new.model, changes)
    for variable, value in zip(_metrics_of(new.model), _metrics_of(old.model), strict=True):
        assign(variable, value_of(value))
    for name in ("epoch", "best", "seconds"):
        getattr(new, name).assign(getattr(old, name))


def pairs_of(old, new, changes):
    """Lists the `Pair`s of all variables."""
    unchanged = zip(
        _variables_outside(old, [change.old for change in changes]),
        _variables_outside(new, [change.new for change in changes]),
        strict=True,
    )
    inside = (pair for change in changes for pair in change.pairs)
    return [*(Pair(*pair, _same, _same_slots) for pair in unchanged), *inside]


def value_of(variable) -> np.ndarray:
    """The value of a Keras variable as a NumPy array."""
    return keras.ops.convert_to_numpy(variable)


def assign(variable: Any, value: np.ndarray) -> None:
    """Assigns a value to a Keras variable.

    Raises:
        ValueError: if the shapes differ.
    """
    if tuple(variable.shape) != np.shape(value):
        raise ValueError(
            f"{variable.path} has shape {tuple(variable.shape)}, its new value {np.shape(value)}"
        )
    variable.assign(value)


def _same(value):
    return value


def _same_slots(values, shapes):
    return {name: value for name, value in values.items() if name in shapes}


def _variables_outside(model, layers):
    inside = {id(variable) for layer in layers for variable in layer.variables}
    return [variable for variable in model.variables if id(variable) not in inside]


def _metrics_of(model):
    """The variables of a model's metrics, without those of mixtures."""
    of_experts = {id(v) for metrics in expert_metrics_of(model) for v in metrics.variables}
    return [variable for variable in model.metrics_variables if id(variable) not in of_experts]


def _transfer_optimizer(old, new, changes):
    old_slots, old_others = slots_of(old)
    new_slots, new_others = slots_of(new)
    if type(old.optimizer) is not type(new.optimizer):
        new.optimizer.iterations.assign(value_of(old.optimizer.iterations))
        return
    for name in new_others.keys() & old_others.keys() - {"learning_rate"}:
        assign(new_others[name], value_of(old_others[name]))
    for pair in pairs_of(old, new, changes):
        slots = new_slots.get(id(pair.new), {})
        values = {name: value_of(slot) for name, slot in old_slots.get(id(pair.old), {}).items()}
        shapes = {name: tuple(slot.shape) for name, slot in slots.items()}
        for name, value in pair.convert_slots(values, shapes).items():
            assign(slots[name], value)


def slots_of(model: keras.Model) -> tuple[dict, dict]:
    """The variables of a model's optimizer.

    Args:
        model: a compiled model, whose optimizer is built.

    Returns:
        `{id of a trainable variable: {name of the slot: variable}}`; and the other variables by
        name. Keras names a slot by the path of its variable and the name of the slot.
    """
    prefixes = {f"{v.path.replace('/', '_')}_": v for v in model.trainable_variables}
    slots: dict = {}
    others = {}
    for variable in model.optimizer.variables:
        matching = [prefix for prefix in prefixes if variable.name.startswith(prefix)]
        if matching:
            prefix = max(matching, key=len)
            owner = slots.setdefault(id(prefixes[prefix]), {})
            owner[variable.name.removeprefix(prefix)] = variable
        else:
            others[variable.name] = variable
    return slots, others
