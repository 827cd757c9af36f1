"""Which variables correspond when a dense layer becomes a mixture, or a mixture loses experts.

Axes: E experts, D model, H hidden.
"""

import functools
from collections.abc import Sequence

import keras
import numpy as np

from tfmoe.training.transfer import Change, Pair

# The power of the gradient that a slot of Keras' optimizers averages. The slot `average` is the
# moving average of the weight (`use_ema`). Other slots start anew.
SLOT_POWERS = {
    "momentum": 1,
    "velocity": 2,
    "rows": 2,
    "columns": 2,
    "accumulator": 2,
    "norm": 1,
}


def upcycled(
    dense: keras.Layer,
    mixture: keras.Layer,
    scale: float = 1.0,
    redrawn: float = 0.0,
    seeds: Sequence[int] = (0,),
) -> Change:
    """The `Change` of a feed-forward network into a mixture whose experts are copies of it
    (Komatsuzaki et al. 2023, "Sparse upcycling").

    A slot of the optimizer is copied to all experts too. At first an expert receives `1/E` of the
    gradient of the dense network, in the mean, so a slot of `g` is divided by E and a slot of `g²`
    by `E²`: the steps of the experts are then those of the network. Where weights are divided by
    `scale`, the gradient is `scale` times as large. The variables of the gate keep their values.

    Args:
        dense: a built `tfmoe.layers.FeedForward`.
        mixture: a built `tfmoe.layers.MoE` with the same network as expert.
        scale: the sum of a token's weights. The outputs of experts are divided by it.
        redrawn: fraction of the hidden units of each expert whose weights are drawn again, from a
            normal distribution with the mean and the standard deviation of the kernel (Nakamura et
            al. 2025, "Drop-Upcycling"). Each expert has other units.
        seeds: non-negative integers, the seed of these draws.
    """
    experts = mixture.experts
    count, last = experts.num_experts, len(dense.dense) - 1
    masks = redrawn_units(count, experts.depth, experts.hidden_units, redrawn, seeds)
    pairs = []
    for index, layer in enumerate(dense.dense):
        outputs = None if index == last else masks[index]
        if outputs is not None and experts.gated:
            outputs = np.concatenate([outputs, outputs], axis=-1)
        options = {"count": count, "scale": scale if index == last else 1.0}
        inputs = masks[index - 1] if index else None
        kernel = functools.partial(
            copies, **options, mask=kernel_mask(inputs, outputs), seeds=(*seeds, 1, index)
        )
        slots = functools.partial(slot_copies, count=count, scale=options["scale"])
        pairs.append(Pair(layer.kernel, experts.kernels[index], kernel, slots(convert=kernel)))
        if experts.use_bias:
            bias = functools.partial(copies, **options, mask=outputs, seeds=(*seeds, 2, index))
            pairs.append(Pair(layer.bias, experts.biases[index], bias, slots(convert=bias)))
    return Change(dense, mixture, pairs)


def redrawn_units(num_experts, depth, hidden_units, fraction, seeds):
    """Chooses the hidden units to draw again: a list of `[E, H]` bool arrays, one for each hidden
    layer.
    """
    generator = np.random.default_rng((*seeds, 0))
    number = round(fraction * hidden_units)
    ranks = generator.random([depth, num_experts, hidden_units]).argsort(-1).argsort(-1)
    return list(ranks < number)


def kernel_mask(inputs, outputs):
    """The elements of kernels `[E, I, O]` that belong to some units.

    Args:
        inputs: `[E, I]` bool, or `None` for no unit.
        outputs: `[E, O]` bool, or `None` for no unit.

    Returns:
        Bool, `[E, I, O]` or a shape that broadcasts to it.
    """
    mask = np.zeros([1, 1, 1], bool)
    if inputs is not None:
        mask = mask | inputs[:, :, None]
    return mask if outputs is None else mask | outputs[:, None, :]


def copies(value, count, scale, mask, seeds):
    """E copies of a value, with some elements drawn again.

    Args:
        value: `[...]`.
        count: E.
        scale: a divisor.
        mask: bool that broadcasts to `[E, ...]`, the elements to draw; `None` for none.
        seeds: non-negative integers, the seed of the draws.
    """
    stack = np.repeat(value[None], count, axis=0)
    if mask is not None and mask.any():
        draws = np.random.default_rng(seeds).normal(value.mean(), value.std(), stack.shape)
        stack = np.where(mask, draws, stack)
    return (stack / scale).astype(value.dtype)


def slot_copies(count, scale, convert):
    """The function of a `Pair` that copies the slots of a network to its E copies. The slots of a
    factored optimizer are means of the full one over an axis of the matrix.

    Args:
        count: E.
        scale: the divisor of the weights.
        convert: the function of the weights, for their moving average.
    """

    def convert_slots(values, shapes):
        values = {**values}
        if "velocity" in values:
            for name, axis in (("rows", -1), ("columns", -2)):
                if name in shapes and name not in values and values["velocity"].ndim > 1:
                    values[name] = values["velocity"].mean(axis)
        slots = {
            name: np.repeat(value[None] * (scale / count) ** SLOT_POWERS[name], count, axis=0)
            for name, value in values.items()
            if name in SLOT_POWERS and shapes.get(name) == (count, *value.shape)
        }
        if "average" in values and "average" in shapes:
            slots["average"] = convert(values["average"])
        return slots

    return convert_slots


def pruned(old: keras.Layer, new: keras.Layer, kept: np.ndarray) -> Change:
    """The `Change` of a mixture into one with some of its experts, weights and slots.

    Args:
        old: a built flat mixture.
        new: a built mixture with `len(kept)` experts and otherwise the same settings.
        kept: the experts to keep, integers in ascending order.
    """

    def convert_slots(values, shapes):
        return {name: taken(values[name], shape, kept) for name, shape in shapes.items()}

    pairs = [
        Pair(
            before,
            after,
            functools.partial(taken, shape=tuple(after.shape), kept=kept),
            convert_slots,
        )
        for before, after in zip(old.variables, new.variables, strict=True)
    ]
    return Change(old, new, pairs)


def taken(value, shape, kept):
    """Takes the values of some experts: along the axes that are shorter in the new shape.

    Args:
        value: an array with an axis of all experts, or without.
        shape: the shape of the result.
        kept: the experts, integers.
    """
    for axis, (before, after) in enumerate(zip(value.shape, shape, strict=True)):
        if before != after:
            value = np.take(value, kept, axis=axis)
    return value
