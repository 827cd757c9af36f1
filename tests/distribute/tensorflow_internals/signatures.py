"""The signatures of private functions."""

import inspect


def parameters(function):
    """The names of a function's parameters."""
    return list(inspect.signature(function).parameters)
