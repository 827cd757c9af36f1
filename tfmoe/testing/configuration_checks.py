"""Checks of the configuration of a gate: copies and saved settings."""

import functools

import keras
import numpy as np

from tfmoe.layers import MoE
from tfmoe.testing.properties import gate_check, require

OF_MIXTURES = {"name", "dtype", "num_experts", "num_groups", "seed"}  # differ between copies
OF_COPIES = {"_num_copies"}  # counts them


@gate_check(
    "a gate, its copies and a mixture that is restored from its configuration have the same "
    "settings.",
    "get_config lacks an argument of the constructor or `**super().get_config()`, or the class "
    'lacks the decorator @keras.saving.register_keras_serializable("my_package").',
)
def configuration(case):
    check_registered(type(case.gate))
    check_copies(case.gate)
    layer = case.make_layer(recompute=True)
    for source in (layer, type(layer).from_config(layer.get_config())):
        restored = type(layer).from_config(source.get_config())
        np.testing.assert_equal(restored.get_config(), layer.get_config())
        restored = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(source)
        )
        np.testing.assert_equal(restored.get_config(), layer.get_config())
    layer.build((None, 5))
    restored = MoE.from_config(layer.get_config())
    require(not restored.trainable_weights, "a restored mixture is built, and holds memory")


def check_registered(cls):
    """Raises an `AssertionError` if Keras cannot find a class when it loads a file."""
    registered = keras.saving.get_registered_object(keras.saving.get_registered_name(cls))
    require(
        registered is cls,
        f"{cls.__name__} is not registered: a `.keras` file with it cannot be loaded. Write "
        f'@keras.saving.register_keras_serializable("my_package") before the class',
    )


def check_copies(gate):
    """Raises an `AssertionError` if a copy of a gate for a mixture loses a setting."""
    copy = gate.for_experts(gate.num_experts or 12, name="copy")
    require(copy is not gate and not copy.built, "for_experts must return a new, unbuilt gate")
    again = copy.for_experts(copy.num_experts, name="copy")
    for other in (copy, again):
        config, expected = plain(other.get_config()), plain(gate.get_config())
        np.testing.assert_equal(config, expected, err_msg="get_config of a copy")
    settings = {name: getattr(gate, name, None) for name in plain(gate.get_config())}
    # What the constructor of the copy did not set is no setting: TensorFlow adds attributes.
    private = {name: value for name, value in vars(gate).items() if name in vars(copy)}
    check_attributes({**settings, **private}, copy)
    check_attributes(vars(copy), again)


def check_attributes(expected, copy):
    """Raises an `AssertionError` if a copy lost a setting.

    Args:
        expected: `{name: value}` of attributes.
        copy: the gate.
    """
    for name, value in expected.items():
        if is_setting(name, value) and getattr(copy, name, None) != value:
            raise AssertionError(
                f"the attribute {name} is {value!r}, and in a copy {getattr(copy, name, None)!r}: "
                f"get_config must have an entry for it, with the value of self.{name}"
            )


def plain(config):
    """The settings of a configuration that every copy has."""
    return {
        name: value
        for name, value in config.items()
        if name not in OF_MIXTURES and not isinstance(value, dict)
    }


def is_setting(name, value):
    """Whether an attribute of a gate is a setting: a plain value that no layer of Keras has."""
    plain_types = (bool, int, float, str, tuple)
    is_own = name not in OF_MIXTURES and name not in OF_COPIES and name not in of_layers()
    return is_own and isinstance(value, plain_types)


@functools.cache
def of_layers():
    """The attributes of a layer of Keras without settings."""
    return frozenset(vars(keras.layers.Layer()))
