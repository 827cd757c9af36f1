"""Initializers with independent draws for each kernel and for each expert."""

import math

import keras
from keras import initializers


def independent(initializer):
    """Returns an initializer for a further kernel, with draws of its own.

    A Keras initializer returns the same values in every call. Its clone returns others, unless the
    seed is an integer. A function, or an initializer with a `SeedGenerator`, returns others in
    every call and is used unchanged.

    Args:
        initializer: a `keras.initializers.Initializer`, or a function of shape and dtype.
    """
    is_function = not isinstance(initializer, initializers.Initializer)
    if is_function or isinstance(seed_of(initializer), keras.random.SeedGenerator):
        return initializer
    return initializer.clone()


def seed_of(initializer):
    """The seed argument of an initializer: an integer, a `SeedGenerator` or `None`."""
    seed = getattr(initializer, "seed", None)  # without a seed argument, a random integer
    if isinstance(seed, keras.random.SeedGenerator):
        return seed
    return initializer.get_config().get("seed")


def per_expert(initializer, num_experts):
    """Converts an initializer so that it treats `[E, d_in, d_out]` as E separate matrices
    `[d_in, d_out]`.

    Keras interprets leading axes as the receptive field of a convolution, and would scale a stack
    of E matrices by 1/√E. Initializers that scale by fan-in or fan-out (Glorot, He, LeCun) are
    corrected. Keras' other initializers do not depend on the shape. Functions and custom
    initializers, which may depend on it, are called once for each expert.

    Args:
        initializer: a Keras initializer, its name, or a function of shape and dtype.
        num_experts: E.

    Returns:
        A new `keras.initializers.Initializer` for the shape `[E, d_in, d_out]` of one kernel.

    Raises:
        ValueError: the initializer is `Orthogonal` or `Identity`, which would mix experts.
    """
    initializer = initializers.get(initializer)
    if isinstance(initializer, (initializers.Orthogonal, initializers.Identity)):
        raise ValueError(
            "kernel_initializer must draw weights independently or scale them by fan-in or "
            f"fan-out, such as "
            f"'glorot_uniform', got {initializer!r}"
        )
    return per_matrix(initializer, num_experts)


def per_matrix(initializer, num_matrices):
    """`per_expert` for any initializer: `Orthogonal` and `Identity` are called for each matrix."""
    if isinstance(initializer, initializers.VarianceScaling):
        return initializers.VarianceScaling(
            scale=initializer.scale * num_matrices,
            mode=initializer.mode,
            distribution=initializer.distribution,
            seed=seed_of(initializer),
        )
    is_shape_independent = isinstance(initializer, SHAPE_INDEPENDENT)
    return independent(initializer) if is_shape_independent else PerMatrix(initializer)


# The distribution of their elements does not depend on the shape.
SHAPE_INDEPENDENT = (
    initializers.Constant,
    initializers.Ones,
    initializers.RandomNormal,
    initializers.RandomUniform,
    initializers.TruncatedNormal,
    initializers.Zeros,
)


class PerMatrix(initializers.Initializer):
    """Calls an initializer for each matrix of a stack `[E, d_in, d_out]`.

    Args:
        initializer: a Keras initializer, or a function of shape and dtype.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        num_matrices, *matrix = shape
        shape = tuple(matrix)
        draws = [self._initializer_of(i)(shape, dtype=dtype) for i in range(num_matrices)]
        return keras.ops.stack(draws)

    def _initializer_of(self, index):
        """An initializer with draws of its own, also if the seed is an integer."""
        is_function = not isinstance(self.initializer, initializers.Initializer)
        seed = None if is_function else self.initializer.get_config().get("seed")
        if not isinstance(seed, int):
            return independent(self.initializer)
        config = {**self.initializer.get_config(), "seed": seed + index}
        return type(self.initializer).from_config(config)

    def clone(self):
        return PerMatrix(independent(self.initializer))


class GateAndUp(initializers.Initializer):
    """Draws the kernels `[W_gate, W_up]` of gated layers, `[..., D, 2H]`: each of the two like a
    kernel `[D, H]`.

    Args:
        initializer: a Keras initializer, or a function of shape and dtype.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        *leading, inputs, outputs = shape
        num_matrices = 2 * math.prod(leading)
        initializer = per_matrix(self.initializer, num_matrices)
        drawn = initializer((num_matrices, inputs, outputs // 2), dtype=dtype)
        pairs = keras.ops.reshape(drawn, (-1, 2, inputs, outputs // 2))
        return keras.ops.reshape(keras.ops.transpose(pairs, (0, 2, 1, 3)), tuple(shape))

    def clone(self):
        return GateAndUp(independent(self.initializer))
