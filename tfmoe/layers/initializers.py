"""Initial values of expert weights."""

import keras


def per_expert(initializer, num_experts):
    """Makes an initializer treat `[E, d_in, d_out]` as E separate `[d_in, d_out]` matrices.

    Keras takes leading axes for the receptive field of a convolution and would scale a stack of E
    matrices by 1/√E. Initializers that scale by the number of inputs or outputs (Glorot, He, LeCun)
    are corrected; others do not look at it.

    Args:
        initializer: a Keras initializer or its name.
        num_experts: E.

    Returns:
        A Keras initializer for shapes `[E, d_in, d_out]`.

    Raises:
        ValueError: for `Orthogonal` and `Identity`, which would mix experts.
    """
    initializer = keras.initializers.get(initializer)
    if isinstance(initializer, keras.initializers.VarianceScaling):
        return keras.initializers.VarianceScaling(
            scale=initializer.scale * num_experts,
            mode=initializer.mode,
            distribution=initializer.distribution,
            seed=initializer.get_config()["seed"],
        )
    if isinstance(initializer, (keras.initializers.Orthogonal, keras.initializers.Identity)):
        raise ValueError(
            f"kernel_initializer must draw weights independently or by fan-in and fan-out, such as "
            f"'glorot_uniform', got {initializer!r}"
        )
    return initializer
