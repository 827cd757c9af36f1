"""Initializers with independent draws for each kernel and for each expert.

Axes: E experts.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import initializers

from tfmoe.ops.expert_runners import empty


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


def per_expert(initializer, gated=False):
    """Converts the initializer of a dense layer into that of a stack of experts.

    Args:
        initializer: a Keras initializer, its name, or a function of shape and dtype.
        gated: whether the kernels are those of gated layers, `[W_gate, W_up]`.

    Returns:
        A `PerExpert`.
    """
    initializer = independent(initializers.get(initializer))
    return PerExpert(GateAndUp(initializer) if gated else initializer)


class PerExpert(initializers.Initializer):
    """Draws the matrix of each expert of a stack `[E, ...]` like the weight of a separate layer.

    Keras interprets leading axes as the receptive field of a convolution, and would scale a stack
    of E matrices by 1/√E. Here every expert has a seed, which depends on the seed of the
    initializer and the index of the expert. So a device draws its experts alone, and the draws do
    not depend on the number of devices.

    Args:
        initializer: a Keras initializer, or a function of shape and dtype. A function, or an
            initializer of your own without a `seed`, is called once for each of the E experts on
            every device, which keeps only its own.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        (stack,) = self.draw_rows(shape, [(0, shape[0])], dtype)
        return stack

    def draw_rows(self, shape, bounds, dtype=None):
        """Draws the experts of some devices.

        Args:
            shape: `(E, ...)`, the shape of the whole stack.
            bounds: list of `(begin, end)`, the experts of each device.
            dtype: the dtype, as for a Keras initializer.

        Yields:
            `[end - begin, ...]` for each pair.
        """
        dtype = keras.backend.standardize_dtype(dtype or keras.config.floatx())
        num_experts, *matrix = shape
        if is_constant(self.initializer):
            for begin, end in bounds:
                yield self.initializer((end - begin, *matrix), dtype=dtype)
        elif is_random(self.initializer):
            seed = base_seed(self.initializer)
            for pair in bounds:
                yield draw_experts(self.initializer, seed, pair, tuple(matrix), dtype)
        else:
            yield from self._draw_one_by_one(num_experts, bounds, matrix, dtype)

    def _draw_one_by_one(self, num_experts, bounds, matrix, dtype):
        """`draw_rows` for code that cannot take a tensor as its seed."""
        stacks = [empty_stack(end - begin, matrix, dtype) for begin, end in bounds]
        for expert in range(num_experts):
            holders = [i for i, (begin, end) in enumerate(bounds) if begin <= expert < end]
            initializer, is_seeded = self._initializer_of(expert)
            if holders or not is_seeded:  # without a seed all experts draw, in their order
                value = tf.convert_to_tensor(initializer(tuple(matrix), dtype=dtype), dtype)
            for i in holders:
                stacks[i] = with_matrix(stacks[i], expert - bounds[i][0], value)
        return stacks

    def _initializer_of(self, expert):
        """The initializer of an expert, with draws of its own; and whether it has a seed."""
        if not isinstance(self.initializer, initializers.Initializer):
            return self.initializer, False
        seed = self.initializer.get_config().get("seed")
        if not isinstance(seed, int):
            return independent(self.initializer), False
        config = {**self.initializer.get_config(), "seed": seed + expert}
        return type(self.initializer).from_config(config), True

    def clone(self):
        return PerExpert(independent(self.initializer))


class GateAndUp(initializers.Initializer):
    """Draws the kernel `[W_gate, W_up]` of a gated layer, `[D, 2H]`: each of the two like a kernel
    `[D, H]`. The biases of both, `[2H]`, are drawn in the same way.

    Args:
        initializer: a Keras initializer, or a function of shape and dtype.
    """

    def __init__(self, initializer):
        self.initializer = initializer

    def __call__(self, shape, dtype=None):
        if is_constant(self.initializer):
            return self.initializer(shape, dtype=dtype)
        *inputs, outputs = shape
        pair = PerExpert(self.initializer)((2, *inputs, outputs // 2), dtype=dtype)
        return tf.concat(tf.unstack(pair), axis=-1)

    def clone(self):
        return GateAndUp(independent(self.initializer))


class FixedSeed(keras.random.SeedGenerator):
    """A `SeedGenerator` without a variable: every draw has the same seed, which can be a tensor.

    Args:
        seed: `[2]` integers.
    """

    def __init__(self, seed):
        self.seed = seed

    def next(self, ordered=True):
        return self.seed

    def get_config(self):
        return {"seed": None}


# Keras' initializers of random values. Each draws with the seed that `draw_seed` returns.
RANDOM = (
    initializers.Orthogonal,
    initializers.RandomNormal,
    initializers.RandomUniform,
    initializers.TruncatedNormal,
    initializers.VarianceScaling,
)
# Up to this many experts are drawn one by one, more in a loop, which takes time to trace.
TRACED_EXPERTS = 64


def is_random(initializer):
    """Whether `with_seed` accepts an initializer."""
    if isinstance(initializer, GateAndUp):
        return is_random(initializer.initializer)
    # Not a subclass with a `__call__` of its own, which may draw in another way.
    return type(initializer).__call__ in {cls.__call__ for cls in RANDOM}


def is_constant(initializer):
    """Whether all elements that an initializer returns are the same number."""
    if isinstance(initializer, GateAndUp):
        return is_constant(initializer.initializer)
    if isinstance(initializer, initializers.Constant):
        return np.ndim(initializer.value) == 0
    return isinstance(initializer, (initializers.Ones, initializers.Zeros))


def base_seed(initializer):
    """The seed of an initializer for which `is_random`: `[2]` integers."""
    if isinstance(initializer, GateAndUp):
        return base_seed(initializer.initializer)
    seed = seed_of(initializer)
    if isinstance(seed, keras.random.SeedGenerator):
        return tf.cast(seed.next(), tf.int64)
    return tf.constant([initializer.seed if seed is None else seed, 0], tf.int64)


def with_seed(initializer, seed):
    """The same initializer with another seed.

    Args:
        initializer: one for which `is_random`.
        seed: `[2]` integers, which can be a tensor.
    """
    if isinstance(initializer, GateAndUp):
        return GateAndUp(with_seed(initializer.initializer, seed))
    config = {**initializer.get_config(), "seed": FixedSeed(seed)}
    return type(initializer).from_config(config)


def draw_experts(initializer, seed, bounds, matrix, dtype):
    """Draws the matrices of consecutive experts, and holds no others.

    Args:
        initializer: one for which `is_random`.
        seed: `[2]` int64.
        bounds: `(begin, end)`, the experts.
        matrix: the shape of the matrix of an expert.
        dtype: its dtype.

    Returns:
        `[end - begin, ...]`.
    """
    begin, end = bounds

    def add(index, stack):
        own_seed = tf.random.experimental.stateless_fold_in(seed, begin + index)
        return with_matrix(stack, index, with_seed(initializer, own_seed)(matrix, dtype=dtype))

    stack = empty_stack(end - begin, matrix, dtype)
    if end - begin <= TRACED_EXPERTS:
        for index in range(end - begin):
            stack = add(index, stack)
        return stack

    @tf.function(autograph=False)
    def draw(stack):
        _, stack = tf.while_loop(
            lambda index, _: index < end - begin,
            lambda index, stack: (index + 1, add(index, stack)),
            (tf.constant(0), stack),
        )
        return stack

    return draw(stack)


def empty_stack(num_matrices, matrix, dtype):
    """A tensor for matrices that `with_matrix` fills."""
    (stack,) = empty(dtype, [(num_matrices, *matrix)])
    return stack


def with_matrix(stack, index, matrix):
    """Writes a matrix into a stack, in place."""
    return tf.raw_ops.InplaceUpdate(x=stack, i=tf.reshape(index, [1]), v=matrix[None])
