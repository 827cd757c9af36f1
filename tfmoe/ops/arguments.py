"""Checks of the arguments of gates and layers."""

import math
import numbers


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


def is_finite(value):
    """Whether a value is a real number, neither infinite nor NaN."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and math.isfinite(value)
