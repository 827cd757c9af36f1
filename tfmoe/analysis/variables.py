"""The variables of a model and of its optimizer, listed without allocating one, and what each of
several devices holds of them.

A copy of the model is built inside a `tf.Graph`, where a variable is a description.

Axes: E experts, R devices.

Devices share the work as in section 3.1 and App. B of the paper: variables that layers create in
`tfmoe.distribute.shards.sharded` are divided along their first axis, with their optimizer slots.
Every expert exists once, `E/R` on each device; in a hierarchical mixture whole secondary mixtures,
with the secondary gate and its thresholds, `groups/R` on each. All other variables are replicated.
Where R does not divide them, the fullest device is meant.
"""

import contextlib
import math
import random
from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute.shards import shard_bounds, sharding_unit
from tfmoe.layers.mixture_layer import layers_within, mixtures_of


class Variable(NamedTuple):
    """A variable, or one device's part of it.

    Attributes:
        path: as Keras names it, `"language_model/residual_moe_1/moe_1/experts/kernel_0"`.
        shape: tuple of integers.
        dtype: its name.
        together: rows of the first axis that stay on one device together; `None` for a variable
            that every device holds.
        of_experts: whether it belongs to experts (their gates do not).
    """

    path: str
    shape: tuple
    dtype: str
    together: int | None = None
    of_experts: bool = False

    @property
    def size(self):
        """Its numbers."""
        return math.prod(self.shape)

    @property
    def bytes(self):
        return self.size * tf.as_dtype(self.dtype).size

    def on_each_device(self, devices):
        """The part of it that the fullest of several devices holds."""
        if self.together is None:
            return self
        begin, end = shard_bounds(self.shape[0], devices, self.together)[0]
        return self._replace(shape=(end - begin, *self.shape[1:]))


class GraphBuild:
    """A copy of a layer or model, built in a graph of its own.

    Args:
        layer: a Keras layer or model, built or not; it stays as it is. Its `get_config` must
            describe it.
        input_shape: given to `build`.

    Attributes:
        layer: the built copy.
    """

    def __init__(self, layer, input_shape=(None, None)):
        self._graph = tf.Graph()
        self._units = {}
        with self._scope():
            self.layer = copy_of(layer)
            self.layer.build(input_shape)
        experts = [mixture.experts for mixture in mixtures_of(self.layer).values()]
        self._of_experts = {id(weight) for each in experts for weight in each.weights}

    def variables(self, layer=None):
        """The trainable variables of the copy, or of a layer in it: list of `Variable`."""
        return [
            Variable(
                variable.path,
                tuple(variable.shape),
                variable.dtype,
                self._units[operation_of(variable)],
                id(variable) in self._of_experts,
            )
            for variable in (self.layer if layer is None else layer).trainable_variables
        ]

    def slots(self, optimizer):
        """What an optimizer keeps beside the trainable variables: list of `Variable`.

        A slot is divided among devices as the variable that it is of.

        Args:
            optimizer: a Keras optimizer; it stays as it is.
        """
        owners = dict(
            zip(map(operation_of, self.layer.trainable_variables), self.variables(), strict=True)
        )
        config = settings_of(optimizer)  # not in the graph: it reads the learning rate
        with self._scope():
            optimizer = type(optimizer).from_config(config)
            before = {id(variable) for variable in optimizer.variables}
            optimizer.build(self.layer.trainable_variables)
        return [
            slot_of(variable, owners)
            for variable in optimizer.variables
            if id(variable) not in before
        ]

    @contextlib.contextmanager
    def _scope(self):
        def create(next_creator, **arguments):
            variable = next_creator(**arguments)
            self._units[variable.handle.op.name] = sharding_unit()
            return variable

        state = random.getstate()  # Keras draws seeds from it for what is made without
        try:
            with self._graph.as_default(), tf.variable_creator_scope(create):
                yield
        finally:
            random.setstate(state)


def operation_of(variable):
    """The name of the graph's operation that stands for a Keras variable."""
    return variable.value.handle.op.name


def slot_of(variable, owners):
    """The `Variable` of an optimizer's Keras variable.

    Args:
        variable: a Keras variable. Keras colocates it with the variable that it is a slot of.
        owners: `{operation: Variable}` of the trainable variables.
    """
    slot = Variable(variable.path, tuple(variable.shape), variable.dtype)
    groups = variable.value.handle.op.colocation_groups()  # of b"loc:@NAME"
    places = [group.decode().removeprefix("loc:@") for group in groups]
    owner = next((owners[place] for place in places if place in owners), None)
    if owner is None:
        return slot
    slot = slot._replace(of_experts=owner.of_experts)
    if owner.together is None or not slot.shape:
        return slot
    # As `MixedStrategy` divides it.
    same = slot.shape[0] == owner.shape[0]
    return slot._replace(together=owner.together if same else 1)


def copy_of(layer):
    """An unbuilt layer or model of the same configuration.

    Args:
        layer: a Keras layer or model. Classes within it need not be registered.

    Raises:
        ValueError: if two classes of one name are within it, which Keras would take for one.
    """
    classes = {}
    for each in layers_within(layer):
        cls = type(each)
        if classes.setdefault(cls.__name__, cls) is not cls:
            raise ValueError(
                f"{layer.name} has layers of two classes named {cls.__name__}: rename one of them"
            )
    with keras.saving.CustomObjectScope(classes):
        return type(layer).from_config(bare(layer.get_config()))


def settings_of(optimizer):
    """The configuration of an optimizer, without a schedule: slots do not depend on it."""
    config = optimizer.get_config()
    if "learning_rate" in config:
        config["learning_rate"] = 0.0
    return config


def bare(config):
    """A Keras configuration of which only the variables' shapes matter.

    Initial values are zeros, the fewest operations. No layer is frozen. The shapes to which layers
    were built are left out: Keras would build the layers outside of the one that they are in, under
    other paths.
    """
    if isinstance(config, dict):
        return {
            key: "zeros" if value and key.endswith("_initializer") else bare(value)
            for key, value in config.items()
            if key not in ("build_config", "trainable")
        }
    if isinstance(config, (list, tuple)):
        return type(config)(map(bare, config))
    return config


def parameters_of(layer, input_shape=(None, None)):
    """How many trainable numbers a layer or model has, counted without building it.

    Args:
        layer, input_shape: as for `GraphBuild`.
    """
    return sum(variable.size for variable in GraphBuild(layer, input_shape).variables())
