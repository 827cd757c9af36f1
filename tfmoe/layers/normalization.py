"""Normalization before a layer of a Transformer, and before the softmax."""

from typing import Literal

import keras

from tfmoe.ops.arguments import one_of, positive_number

# RMSNorm (Zhang and Sennrich 2019): x / rms(x) · scale. LayerNorm (Ba et al. 2016):
# (x - mean(x)) / std(x) · scale + bias. Both over the last axis.
CLASSES = {"rms": keras.layers.RMSNormalization, "layer": keras.layers.LayerNormalization}
EPSILON = 1e-6
Norm = Literal["rms", "layer"]


def normalization(
    argument: str, norm: Norm | None, name: str, dtype, epsilon: float = EPSILON
) -> keras.Layer | None:
    """Makes the layer that an argument `norm` names.

    Args:
        argument: the argument's name, for the error.
        norm: `"rms"`, `"layer"` or `None`.
        name: the layer's name.
        dtype: the layer's dtype policy.
        epsilon: added to the mean square or the variance, above 0.

    Returns:
        The layer, or `None`.

    Raises:
        ValueError: `norm` is none of these, or `epsilon` is not above 0, or is set without `norm`.
    """
    epsilon = positive_number(f"{argument}_epsilon", epsilon)
    if norm is None:
        if epsilon != EPSILON:
            raise ValueError(
                f"{argument}_epsilon must be left out without {argument}, got {epsilon:g}"
            )
        return None
    layer = CLASSES[one_of(argument, norm, CLASSES)](epsilon=epsilon, name=name, dtype=dtype)
    layer.supports_masking = True  # RMSNormalization would warn about a mask, and drop it
    return layer


def normalized(layer: keras.Layer | None, x):
    """`layer(x)`, or x without a layer."""
    return x if layer is None else layer(x)
