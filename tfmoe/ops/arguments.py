"""Checks of the arguments of gates and layers, and of what they are built for and called with."""

import inspect
import math
import numbers

import keras
import numpy as np
import tensorflow as tf


def positive(name, value):
    """`value` if it is an integer of at least 1; a ValueError that names the argument otherwise."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return int(value)


def non_negative(name, value):
    """`value` if it is a finite number of at least 0; a ValueError that names the argument
    otherwise."""
    if not is_finite(value) or value < 0:
        raise ValueError(f"{name} must be a finite number of at least 0, got {value!r}")
    return float(value)


def above_zero(name, value):
    """`value` if it is a finite number above 0; a ValueError that names the argument otherwise."""
    if not is_finite(value) or value <= 0:
        raise ValueError(f"{name} must be a finite number above 0, got {value!r}")
    return float(value)


def factor(name, value):
    """`value` if it is `None` or a finite number above 0; a ValueError that names the argument
    otherwise."""
    return None if value is None else above_zero(name, value)


def one_of(name, value, choices):
    """`value` if it is one of some strings; a ValueError that names the argument otherwise."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


def is_finite(value):
    """Whether a value is a real number, neither infinite nor NaN."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)


def fraction(name, value):
    """`value` if it is a number of at least 0 and under 1; a ValueError that names the argument
    otherwise."""
    if not is_finite(value) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number of at least 0 and under 1, got {value!r}")
    return float(value)


def boolean(name, value):
    """`value` if it is `True` or `False`; a ValueError that names the argument otherwise."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")
    return bool(value)


def random_seed(name, value):
    """`value` if it is an integer or `None`; a ValueError that names the argument otherwise."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise ValueError(f"{name} must be an integer or None, got {value!r}")
    return int(value)


def activation(name, value):
    """The activation that a layer's argument names.

    Args:
        name: of the argument, for the error.
        value: what Keras takes for an activation: a name, a function, a layer, a serialised one,
            or `None` for none.

    Returns:
        A function of one tensor.

    Raises:
        ValueError: if it is none of these, or a layer with variables (such as PReLU): it would
            share them among all kernels and experts.
    """
    wrong = ValueError(
        f"{name} must be a Keras activation, its name or a function of one tensor, got {value!r}"
    )
    if inspect.isclass(value):
        raise wrong
    try:
        found = keras.activations.get(value)
    except (TypeError, ValueError) as error:
        raise wrong from error
    if isinstance(found, keras.layers.Layer) and (found.variables or not found.built):
        raise ValueError(
            f"{name} must be a function without variables, got the layer {found!r}, which has some "
            "or makes them when it is built"
        )
    return found


def initializer(name, value):
    """The initializer that a layer's argument names.

    Args:
        name: of the argument, for the error.
        value: what Keras takes for an initializer: a name, an object, a class, a function of shape
            and dtype, an array, a serialised one, or `None` for Keras' default.

    Returns:
        A `keras.initializers.Initializer`, or a function of shape and dtype.

    Raises:
        ValueError: if it is none of these.
    """
    try:
        return keras.initializers.get("glorot_uniform" if value is None else value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a Keras initializer, its name or class, or a function of shape and "
            f"dtype, got {value!r}"
        ) from error


def last_dimension(name, shape, rank=None):
    """The width of the inputs that a layer is built for.

    Args:
        name: of the inputs, for the error: "inputs of moe".
        shape: tuple, list or `tf.TensorShape`.
        rank: how many dimensions the shape must have; `None` for any number.

    Raises:
        ValueError: if it is none of these, its last dimension is unknown or 0, or its rank another.
    """
    if isinstance(shape, tf.TensorShape):
        shape = None if shape.rank is None else tuple(shape)
    width = shape[-1] if isinstance(shape, (tuple, list)) and shape else None
    if not isinstance(width, numbers.Integral) or width < 1:
        raise ValueError(f"{name} must have a known last dimension, got shape {shape!r}")
    if rank not in (None, len(shape)):
        raise ValueError(f"{name} must have {rank} dimensions, got shape {shape!r}")
    return int(width)


def float_tensor(name, value, dtype):
    """The inputs of a layer in the type that it computes in.

    Args:
        name: of the inputs, for the error: "inputs of moe".
        value: a tensor, array or nested list of any number type.
        dtype: of the result, a layer's `compute_dtype`.

    Returns:
        A dense tensor.

    Raises:
        ValueError: for a sparse or ragged tensor.
    """
    if isinstance(value, (tf.SparseTensor, tf.RaggedTensor)):
        convert = "tf.sparse.to_dense(…)" if isinstance(value, tf.SparseTensor) else ".to_tensor()"
        raise ValueError(
            f"{name} must be a dense tensor, got a {type(value).__name__}: convert it with "
            f"{convert}"
        )
    return tf.cast(value, dtype)
