"""Lists the variables of a model and its optimizer without allocating them, and each device's part.

A copy of the model is built inside a `tf.Graph`, where variables are only descriptions.

Axes: E experts, R devices.

Devices share the variables as in section 3.1 and App. B of the paper. Variables that layers create
in `tfmoe.distribute.shards.sharded` are divided along their first axis, and so are their optimizer
slots. Every expert exists once: each device has `E/R` experts. A hierarchical mixture is divided by
secondary mixtures, including the secondary gates and their thresholds: each device has `groups/R`.
All other variables are replicated. If R is not a divisor, sizes are those of the fullest device.
"""

import contextlib
import math
import random
from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute.shards import Sharding, current_sharding
from tfmoe.layers.mixture_layer import expert_layers_of, layers_within


class Variable(NamedTuple):
    """A variable, or one device's part of it.

    Attributes:
        path: Keras' path, `"language_model/residual_moe_1/moe_1/experts/kernel_0"`.
        shape: tuple of integers.
        dtype: name of the dtype.
        sharding: how a `MixedStrategy` shards it; `None` for a replicated variable.
        in_experts: whether it is a weight of an expert, or a slot of one. Gates are not.
    """

    path: str
    shape: tuple
    dtype: str
    sharding: Sharding | None = None
    in_experts: bool = False

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The size in bytes."""
        return self.size * tf.as_dtype(self.dtype).size

    def is_replicated(self, devices: int) -> bool:
        """Whether each of R devices holds the whole variable.

        Args:
            devices: R.
        """
        return self._bounds(devices) is None

    def _bounds(self, devices):
        """`(begin, end)` on the first axis for each device; `None` for a replicated variable."""
        return None if self.sharding is None else self.sharding.bounds(self.shape[0], devices)

    def on_each_device(self, devices: int) -> "Variable":
        """The part of the variable on the fullest of R devices.

        Args:
            devices: R.
        """
        bounds = self._bounds(devices)
        if bounds is None:
            return self
        start, end = bounds[0]
        return self._replace(shape=(end - start, *self.shape[1:]))


class GraphBuild:
    """A copy of a layer or model, built in a separate graph.

    Args:
        layer: a Keras layer or model, built or not. It is not changed. Its `get_config` must
            describe it completely.
        input_shape: the argument of `build`.

    Attributes:
        layer: the built copy.

    Raises:
        ValueError: if two classes within the layer have the same name.
    """

    def __init__(self, layer: keras.Layer, input_shape: tuple = (None, None)):
        self._graph = tf.Graph()
        self._shardings: dict[str, Sharding | None] = {}
        with self._scope():
            self.layer = unbuilt_copy(layer)
            self.layer.build(input_shape)
        experts = [layer.experts for layer in expert_layers_of(self.layer).values()]
        self._expert_weight_ids = {id(weight) for layer in experts for weight in layer.weights}

    def variables(self, layer: keras.Layer | None = None) -> list[Variable]:
        """The trainable variables.

        Args:
            layer: a layer within the copy, to list only its variables; `None` for all variables.
        """
        return [
            Variable(
                variable.path,
                tuple(variable.shape),
                variable.dtype,
                self._shardings[operation_name(variable)],
                id(variable) in self._expert_weight_ids,
            )
            for variable in (self.layer if layer is None else layer).trainable_variables
        ]

    def slots(self, optimizer: keras.optimizers.Optimizer) -> list[Variable]:
        """The variables that an optimizer adds for the trainable variables.

        A slot is divided among devices like its variable.

        Args:
            optimizer: a Keras optimizer. It is not changed.
        """
        variables = dict(
            zip(map(operation_name, self.layer.trainable_variables), self.variables(), strict=True)
        )
        config = config_without_schedule(optimizer)  # outside the graph: reads the learning rate
        with self._scope():
            optimizer = type(optimizer).from_config(config)
            before = {id(variable) for variable in optimizer.variables}
            optimizer.build(self.layer.trainable_variables)
        return [
            describe_slot(variable, variables)
            for variable in optimizer.variables
            if id(variable) not in before
        ]

    @contextlib.contextmanager
    def _scope(self):
        def create(next_creator, **arguments):
            variable = next_creator(**arguments)
            self._shardings[variable.handle.op.name] = current_sharding()
            return variable

        state = random.getstate()  # Keras draws missing seeds from this generator
        try:
            with self._graph.as_default(), tf.variable_creator_scope(create):
                yield
        finally:
            random.setstate(state)


def operation_name(variable):
    """The name of a Keras variable's operation in the graph."""
    return variable.value.handle.op.name


def describe_slot(slot, variables):
    """The `Variable` of an optimizer slot.

    Args:
        slot: a Keras variable of an optimizer. Keras colocates it with its trainable variable.
        variables: `{operation name: Variable}` of the trainable variables.
    """
    description = Variable(slot.path, tuple(slot.shape), slot.dtype)
    groups = slot.value.handle.op.colocation_groups()  # a list of b"loc:@NAME"
    names = [group.decode().removeprefix("loc:@") for group in groups]
    owner = next((variables[name] for name in names if name in variables), None)
    if owner is None:
        return description
    description = description._replace(in_experts=owner.in_experts)
    if owner.sharding is None or not description.shape:
        return description
    # `MixedStrategy` divides slots in the same way.
    same_rows = description.shape[0] == owner.shape[0]
    return description._replace(sharding=owner.sharding if same_rows else Sharding())


def unbuilt_copy(layer):
    """An unbuilt layer or model with the same configuration.

    Args:
        layer: a Keras layer or model. Classes within it need not be registered.

    Raises:
        ValueError: if two classes within the layer have the same name: Keras identifies classes by
            name.
    """
    classes = {}
    for inner in layers_within(layer):
        cls = type(inner)
        if classes.setdefault(cls.__name__, cls) is not cls:
            raise ValueError(
                f"{layer.name} has layers of two classes named {cls.__name__}: rename one of them"
            )
    with keras.saving.CustomObjectScope(classes):
        return type(layer).from_config(simplify(layer.get_config()))


def config_without_schedule(optimizer):
    """The configuration of an optimizer without its learning rate, which slots do not depend on."""
    config = optimizer.get_config()
    if "learning_rate" in config:
        config["learning_rate"] = 0.0
    return config


def simplify(config):
    """Reduces a Keras configuration to the parts that determine the variables' shapes.

    Initializers become zeros, which need the fewest operations, and no layer is frozen. The shapes
    of built layers are removed: Keras would build inner layers before the outer ones, under other
    paths.
    """
    if isinstance(config, dict):
        return {
            key: "zeros" if value and key.endswith("_initializer") else simplify(value)
            for key, value in config.items()
            if key not in ("build_config", "trainable")
        }
    if isinstance(config, (list, tuple)):
        return type(config)(map(simplify, config))
    return config


def parameters_of(layer: keras.Layer, input_shape: tuple = (None, None)) -> int:
    """Counts the trainable parameters of a layer or model without allocating them.

    Args:
        layer: a Keras layer or model, built or not.
        input_shape: the argument of `build`.
    """
    return sum(variable.size for variable in GraphBuild(layer, input_shape).variables())
