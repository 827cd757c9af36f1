"""The variables of a model, listed without building it, and what one of several devices holds.

Axes: E experts, D model, H hidden, V vocabulary, U units of an LSTM, A attention units, R devices.

Devices share the work as in section 3.1 and App. B of the paper: every expert exists once, sharded
with its optimizer slots over the R devices, `E/R` on each; in a hierarchical mixture whole
secondary mixtures, with the secondary gate and its thresholds, `groups/R` on each. All other
variables are replicated. Where R does not divide them, the fullest device is meant, with the next
whole number.
"""

import math
from itertools import pairwise
from typing import NamedTuple

from tfmoe.gating import Batchwise
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM


class Variable(NamedTuple):
    """A trainable variable, or one device's part of it.

    Attributes:
        path: as Keras will name it, `"language_model/residual_moe_1/moe_1/experts/kernel_0"`.
        shape: tuple of integers.
        of_experts: whether it belongs to experts (their gates do not).
    """

    path: str
    shape: tuple
    of_experts: bool = False

    @property
    def name(self):
        """The last part of its path, as Keras has it."""
        return self.path.rpartition("/")[2]

    @property
    def size(self):
        """Its numbers."""
        return math.prod(self.shape)


def variables_per_device(model, devices=1):
    """What one of `devices` holds of a model.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        devices: R.

    Returns:
        List of `Variable`.

    Raises:
        TypeError: for a layer whose variables are not known.
    """
    vocabulary_size, width = model.vocabulary_size, model.d_model
    layers = {
        "embedding": [Variable("embeddings", (vocabulary_size, width))],
        **{
            f"{block.name}/{block.layer.name}": list(_of_layer(block.layer, width, devices))
            for block in model.blocks
        },
        "softmax": [
            Variable("kernel", (vocabulary_size, width)),
            Variable("bias", (vocabulary_size,)),
        ],
    }
    return [
        variable._replace(path=f"{model.name}/{layer}/{variable.path}")
        for layer, variables in layers.items()
        for variable in variables
    ]


def experts_per_device(moe, devices):
    """Experts of a `MoE` on the fullest device: `⌈n/R⌉`, in whole groups if there are any."""
    together = 1 if moe.gate.groups is None else moe.num_experts // moe.gate.groups
    return math.ceil(moe.num_experts // together / devices) * together


def _of_layer(layer, width, devices):
    if isinstance(layer, ProjectedLSTM):
        return _of_lstm(layer.cell, width)
    if isinstance(layer, AttentionLSTM):
        return _of_attention_lstm(layer, width)
    if isinstance(layer, FeedForward):
        return _of_feed_forward(layer, width)
    if isinstance(layer, MoE):
        return _of_mixture(layer, width, devices)
    raise TypeError(f"the variables of {layer.name}, a {type(layer).__name__}, are not known")


def _of_lstm(cell, width):
    yield Variable("kernel", (width, 4 * cell.units))
    yield Variable("bias", (4 * cell.units,))
    yield from _of_cell("rnn/cell", cell)


def _of_attention_lstm(layer, width):
    cell, attention = layer.cell, layer.attention
    yield Variable("kernel", (width, 4 * cell.units))
    yield Variable("context_kernel", (width, 4 * cell.units))
    yield Variable("bias", (4 * cell.units,))
    yield from _of_cell("cell", cell)
    yield Variable("attention/source_kernel", (width, attention.units))
    yield Variable("attention/query_kernel", (cell.output_size, attention.units))
    yield Variable("attention/scale", (attention.units,))


def _of_cell(path, cell):
    yield Variable(f"{path}/recurrent_kernel", (cell.output_size, 4 * cell.units))
    if cell.projection_units is not None:
        yield Variable(f"{path}/projection_kernel", (cell.units, cell.output_size))


def _of_feed_forward(layer, width):
    for i, shape in enumerate(_kernel_shapes(layer, width)):
        yield Variable(f"dense_{i}/kernel", shape)
        if layer.use_bias:
            yield Variable(f"dense_{i}/bias", shape[1:])


def _of_mixture(moe, width, devices):
    here = experts_per_device(moe, devices)
    if moe.gate.groups is None:
        yield from _of_gate("gate", moe.gate, (), width)
    else:
        groups = here * moe.gate.groups // moe.num_experts
        yield from _of_gate("gate/primary", moe.gate.primary, (), width)
        yield from _of_gate("gate/secondary", moe.gate.secondary, (groups,), width)
    for i, shape in enumerate(_kernel_shapes(moe.experts, width)):
        yield Variable(f"experts/kernel_{i}", (here, *shape), of_experts=True)
        if moe.experts.use_bias:
            yield Variable(f"experts/bias_{i}", (here, *shape[1:]), of_experts=True)


def _of_gate(path, gate, stack, width):
    for name in gate.kernel_names:
        yield Variable(f"{path}/{name}", (*stack, width, gate.num_experts))
    if isinstance(gate, Batchwise):
        yield Variable(f"{path}/log_thresholds", (*stack, gate.num_experts))


def _kernel_shapes(network, width):
    """`D → H → … → H → D`, of one network."""
    return pairwise([width, *[network.hidden_units] * network.depth, width])
