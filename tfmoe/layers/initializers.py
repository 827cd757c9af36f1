"""Initializers with independent draws for each kernel and for each expert."""

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
    if isinstance(initializer, initializers.VarianceScaling):
        return initializers.VarianceScaling(
            scale=initializer.scale * num_experts,
            mode=initializer.mode,
            distribution=initializer.distribution,
            seed=seed_of(initializer),
        )
    if isinstance(initializer, (initializers.Orthogonal, initializers.Identity)):
        raise ValueError(
            "kernel_initializer must draw weights independently or scale them by fan-in or "
            f"fan-out, such as "
            f"'glorot_uniform', got {initializer!r}"
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
        draws = [independent(self.initializer)(shape, dtype=dtype) for _ in range(num_matrices)]
        return keras.ops.stack(draws)

    def clone(self):
        return PerMatrix(independent(self.initializer))
