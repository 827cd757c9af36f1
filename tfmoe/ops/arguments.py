"""Checks of constructor arguments, input shapes and inputs of gates and layers.

Each check returns the value, converted to a plain Python type where it is a number, or raises a
`ValueError` that begins with the argument's name.
"""

import inspect
import math
import numbers
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

# The types of arguments that Keras resolves: names, serialized objects, functions, objects.
Activation = str | dict | Callable
Initializer = str | dict | Callable
Regularizer = str | dict | Callable | None
Constraint = str | dict | Callable | None

# How to make a dense tensor x.
CONVERSIONS = {
    tf.SparseTensor: "tf.sparse.to_dense(x)",
    tf.RaggedTensor: "x.to_tensor(), and give a mask=tf.sequence_mask(x.row_lengths()); or, for a "
    "layer that does not mix the tokens of a sequence, call tf.ragged.map_flat_values(layer, x)",
}


def positive(name: str, value) -> int:
    """Checks that an argument is an integer of at least 1."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def count(name: str, value) -> int:
    """Checks that an argument is an integer of at least 0."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 0:
        raise ValueError(f"{name} must be an integer of at least 0, got {value!r}")
    return int(value)


def non_negative(name: str, value) -> float:
    """Checks that an argument is a finite number of at least 0."""
    if not is_finite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def positive_number(name: str, value) -> float:
    """Checks that an argument is a finite number above 0."""
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def positive_or_none(name: str, value) -> float | None:
    """Checks that an argument is `None` or a finite number above 0."""
    return None if value is None else positive_number(name, value)


def one_of(name: str, value, choices) -> str:
    """Checks that an argument is one of `choices`, strings."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def is_finite(value) -> bool:
    """Whether a value is a real number, neither infinite nor NaN."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def probability(name: str, value) -> float:
    """Checks that an argument is a number from 0 to 1."""
    if not is_finite(value) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)


def fraction(name: str, value) -> float:
    """Checks that an argument is at least 0 and below 1."""
    if not is_finite(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number of at least 0 and below 1, got {value!r}")
    return float(value)


def boolean(name: str, value) -> bool:
    """Checks that an argument is `True` or `False`."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def random_seed(name: str, value) -> int | None:
    """Checks that an argument is an integer or `None`."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer or None, got {value!r}")
    return int(value)


def activation(name: str, value) -> Callable:
    """Resolves an activation argument.

    Args:
        name: the argument's name, for the error.
        value: any Keras activation identifier: a name, a function, a layer, a serialized
            activation, or `None` for the identity.

    Returns:
        A function of one tensor.

    Raises:
        ValueError: the value is not an activation, or is a layer with variables (such as PReLU),
            which all kernels and experts would share.
    """
    invalid = ValueError(
        f"{name} must be a Keras activation, its name or a function of one tensor, got {value!r}"
    )
    if inspect.isclass(value):
        raise invalid
    try:
        function = keras.activations.get(value)
    except (TypeError, ValueError) as error:
        raise invalid from error
    if isinstance(function, keras.layers.Layer) and (function.variables or not function.built):
        raise ValueError(
            f"{name} must be a function without variables, got the layer {function!r}, which has "
            "variables or creates them in build()"
        )
    return function


def initializer(name: str, value) -> Callable:
    """Resolves an initializer argument.

    Args:
        name: the argument's name, for the error.
        value: any Keras initializer identifier: a name, an object, a class, a function of shape
            and dtype, an array, a serialized initializer, or `None` for Keras' default.

    Returns:
        A `keras.initializers.Initializer`, or a function of shape and dtype.

    Raises:
        ValueError: the value is not an initializer.
    """
    try:
        return keras.initializers.get("glorot_uniform" if value is None else value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a Keras initializer, its name or class, or a function of shape and "
            f"dtype, got {value!r}"
        ) from error


def regularizer(name: str, value) -> Callable | None:
    """Resolves a regularizer argument.

    Args:
        name: the argument's name, for the error.
        value: any Keras regularizer identifier: a name, an object, a function of one tensor, a
            serialized regularizer, or `None`.

    Returns:
        A function of a weight that returns a scalar; or `None`.

    Raises:
        ValueError: the value is not a regularizer.
    """
    return _weight_function(name, value, "regularizer", keras.regularizers.get)


def constraint(name: str, value) -> Callable | None:
    """Resolves a constraint argument.

    Args:
        name: the argument's name, for the error.
        value: any Keras constraint identifier: a name, an object, a function of one tensor, a
            serialized constraint, or `None`.

    Returns:
        A function of a weight that returns the weight to use instead; or `None`.

    Raises:
        ValueError: the value is not a constraint.
    """
    return _weight_function(name, value, "constraint", keras.constraints.get)


def _weight_function(name, value, kind, get):
    try:
        return get(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a Keras {kind}, its name or a function of a weight, got {value!r}"
        ) from error


def output_width(value) -> int | None:
    """Checks the argument `output_units`: a positive integer, or `None` for the input's width."""
    return None if value is None else positive("output_units", value)


def last_dimension(name: str, shape, rank: int | None = None) -> int:
    """Returns the last dimension of the input shape that a layer is built with.

    Args:
        name: the input's name, for the error: "inputs of moe".
        shape: tuple, list or `tf.TensorShape`.
        rank: the required rank; `None` for any.

    Raises:
        ValueError: the shape has another type or rank, or its last dimension is unknown or 0.
    """
    if isinstance(shape, (tuple, list)) and any(isinstance(x, (tuple, list)) for x in shape):
        raise ValueError(f"{name} must be one tensor, got {len(shape)} of the shapes {shape!r}")
    if isinstance(shape, tf.TensorShape):
        shape = None if shape.rank is None else tuple(shape)
    width = shape[-1] if isinstance(shape, (tuple, list)) and shape else None
    if not isinstance(width, numbers.Integral) or width < 1:
        raise ValueError(
            f"{name} must have a known last dimension, got shape {shape!r}: give the width, as in "
            "keras.Input([…, 64]) or tf.TensorSpec([None, …, 64])"
        )
    if rank not in (None, len(shape)):
        raise ValueError(f"{name} must have {rank} dimensions, got shape {shape!r}")
    return int(width)


def float_tensor(name: str, value, dtype) -> tf.Tensor:
    """Casts the inputs of a layer to its compute dtype.

    Args:
        name: the input's name, for the error: "inputs of moe".
        value: a tensor, array or nested list of any numeric type.
        dtype: the dtype of the result: the layer's `compute_dtype`.

    Returns:
        A dense tensor.

    Raises:
        ValueError: the value is a sparse or ragged tensor, or does not consist of real numbers.
    """
    for kind, convert in CONVERSIONS.items():
        if isinstance(value, kind):
            raise ValueError(
                f"{name} must be a dense tensor, got a {kind.__name__}: convert it with {convert}"
            )
    value = tf.convert_to_tensor(value)
    if value.dtype == tf.string or value.dtype.is_complex:
        raise ValueError(f"{name} must be real numbers, got a tensor of {value.dtype.name}")
    return tf.cast(value, dtype)
