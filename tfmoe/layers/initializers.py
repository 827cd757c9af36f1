"""Initial values of weights: one draw for each kernel, and for each expert."""

import keras
from keras import initializers


def own(initializer):
    """An initializer for one more kernel, so that each kernel gets a draw of its own.

    An initializer of Keras gives the same values each time; its clone gives others, unless its seed
    is an integer. A function, and a `SeedGenerator` as seed, give others each time.

    Args:
        initializer: a `keras.initializers.Initializer`, or a function of shape and dtype.
    """
    is_function = not isinstance(initializer, initializers.Initializer)
    if is_function or isinstance(seed_of(initializer), keras.random.SeedGenerator):
        return initializer
    return initializer.clone()


def seed_of(initializer):
    """The seed that an initializer was made with: an integer, a `SeedGenerator` or `None`."""
    seed = getattr(initializer, "seed", None)  # of its own choice, if it was made without
    if isinstance(seed, keras.random.SeedGenerator):
        return seed
    return initializer.get_config().get("seed")


def per_expert(initializer, num_experts):
    """Makes an initializer treat `[E, d_in, d_out]` as E separate `[d_in, d_out]` matrices.

    Keras takes leading axes for the receptive field of a convolution and would scale a stack of E
    matrices by 1/√E. Initializers that scale by the number of inputs or outputs (Glorot, He, LeCun)
    are corrected; Keras' others do not look at it. Functions and initializers of your own, which
    may look at it, are called once for each expert.

    Args:
        initializer: a Keras initializer, its name, or a function of shape and dtype.
        num_experts: E.

    Returns:
        A new `keras.initializers.Initializer` for the shape `[E, d_in, d_out]` of one kernel.

    Raises:
        ValueError: for `Orthogonal` and `Identity`, which would mix experts.
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
            f"kernel_initializer must draw weights independently or by fan-in and fan-out, such as "
            f"'glorot_uniform', got {initializer!r}"
        )
    return own(initializer) if isinstance(initializer, SHAPE_BLIND) else EachMatrix(initializer)


# They draw every element alike, whatever the shape.
SHAPE_BLIND = (
    initializers.Constant,
    initializers.Ones,
    initializers.RandomNormal,
    initializers.RandomUniform,
    initializers.TruncatedNormal,
    initializers.Zeros,
)


class EachMatrix(initializers.Initializer):
    """Calls an initializer for each matrix of a stack `[E, d_in, d_out]`.

    Args:
        initializer: a Keras initializer, or a function of shape and dtype.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        num_matrices, *matrix = shape
        draws = [own(self.initializer)(tuple(matrix), dtype=dtype) for _ in range(num_matrices)]
        return keras.ops.stack(draws)

    def clone(self):
        return EachMatrix(own(self.initializer))
