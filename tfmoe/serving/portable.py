"""Functions out of operations that other runtimes have, and their comparison with files."""

from collections.abc import Callable, Iterable

import numpy as np
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_operations
from tfmoe.serving.saved_model import describe_signatures
from tfmoe.serving.signatures import Signature

# Runtimes add in different orders: differences are about 1e-6 of the values.
TOLERANCE = 1e-3


class ConversionError(ValueError):
    """A model has an operation that a format does not have."""


def traced(signatures: dict[str, Signature]) -> dict:
    """Traces functions.

    Args:
        signatures: `{name: Signature}`.

    Returns:
        `{name: tf.function}` with one concrete function each.
    """
    functions = {}
    for name, signature in signatures.items():
        function = tf.function(
            signature.function, input_signature=signature.inputs, autograph=False
        )
        with portable_operations():
            function.get_concrete_function()
        functions[name] = function
    return functions


def largest_difference(
    signatures: dict[str, Signature],
    loaded: dict[str, Callable],
    samples: Iterable[tuple[str, dict]],
) -> float:
    """Compares functions that were loaded from a file with those of the model.

    Args:
        signatures: `{name: Signature}`, functions of the model, which Keras computes.
        loaded: `{name: function}` of the same names: from named arrays to named arrays.
        samples: pairs of a name and the function's inputs, `{name: array}`.

    Returns:
        The largest difference of two values, relative to the expected value where that is above 1.

    Raises:
        ConversionError: if an output is missing, has another shape, or differs by more than
            `TOLERANCE`.
    """
    largest = 0.0
    for name, inputs in samples:
        expected = signatures[name].function(*map(tf.constant, inputs.values()))
        outputs = loaded[name](**inputs)
        for key, value in expected.items():
            value, output = value.numpy(), outputs.get(key)
            if output is None or output.shape != value.shape:
                shape = None if output is None else output.shape
                raise ConversionError(
                    f"{name}: the output {key} must have the shape {value.shape}, got {shape}"
                )
            if value.size:
                value, output = value.astype("float64"), output.astype("float64")
                difference = np.max(np.abs(output - value) / np.maximum(np.abs(value), 1))
                if not difference <= TOLERANCE:
                    raise ConversionError(
                        f"{name}: the output {key} differs from that of Keras by {difference:.1e}"
                    )
                largest = max(largest, float(difference))
    return largest


def described(signatures: dict[str, Signature], functions: dict, states: list) -> dict:
    """Describes functions for the manifest.

    Args:
        signatures: `{name: Signature}`.
        functions: what `traced` returns for them.
        states: list of named `tf.TensorSpec`, inputs of the last function, which returns the next
            ones as `next_…`.

    Returns:
        `{"signatures": {name: {"description", "inputs", "outputs"}}, "states": [{"input", "output",
        "dtype", "shape"}, …]}`. In the shapes of states, the first dimension is the number of rows,
        and another one that is `None` is the maximum number of steps.
    """
    concrete = {name: function.get_concrete_function() for name, function in functions.items()}
    return {
        "signatures": describe_signatures(signatures, concrete),
        "states": [
            {
                "input": spec.name,
                "output": f"next_{spec.name}",
                "dtype": spec.dtype.name,
                "shape": spec.shape.as_list(),
            }
            for spec in states
        ],
    }
