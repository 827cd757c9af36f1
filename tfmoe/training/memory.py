"""What a training step holds in the memory of one device, counted without building the model.

Axes: T positions of a batch on one device, E experts, K selected experts per position, D model,
H hidden, U units of an LSTM, R devices.

Devices share the work as in section 3.1 and App. B of the paper: every expert exists once, sharded
with its optimizer slots over the R devices, `E/R` on each; in a hierarchical mixture whole
secondary mixtures, with the secondary gate, `groups/R` on each. All other weights are replicated.
Where R does not divide them, the fullest device is counted, with the next whole number.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.layers import FeedForward, MoE, ProjectedLSTM
from tfmoe.training.accounting import named_layers

# Numbers that a gate keeps for each expert that it weighs, per matrix: a noisy gate's gradient
# needs 7 tensors [T, E] for its 2 matrices (draw, W_noise's product, σ, its bounded value,
# numerator, quotient and argument of Φ in eq 9).
KEPT_PER_GATE_PRODUCT = 4
# Activations whose gradient follows from their output; others need their input too.
GRADIENT_FROM_OUTPUT = {"relu", "relu6", "sigmoid", "tanh", "elu", "selu", "linear"}


def memory_per_device(model, tokens, devices=1, optimizer="adam"):
    """Bytes that a training step holds on one device.

    Weights, their gradients and slots are of the variables' type. A gradient is counted as large as
    its weight, also where it arrives as some rows of an embedding. Activations are those tensors
    that the backward pass must keep from the forward pass, for `tokens` positions, none of them
    padding, spread evenly over the experts; see `kept_by_layer`. Not counted: temporary tensors
    within an operation, the integers and masks of routing, copies of weights in another compute
    type, and what the framework needs.

    Args:
        model: a `tfmoe.models.LanguageModel`, built or not.
        tokens: T, positions of a batch on each device.
        devices: R.
        optimizer: the one of the config, a key of `OPTIMIZER_SLOTS`.

    Returns:
        A dictionary of integers, in bytes:

        - `weights`, `gradients`; `optimizer_slots` of `optimizer`, and
          `optimizer_slots_by_optimizer` of each that is known.
        - `experts`: how much of this is the experts': `weights`, `gradients` and
          `optimizer_slots_by_optimizer`.
        - `activations` as the model's layers are set; `activations_without_recompute` and
          `activations_with_recompute`, if no mixture or every one computed its experts' hidden
          activations again in the backward pass.
        - `total`: weights, gradients, optimizer_slots and activations.

    Raises:
        ValueError: for an optimizer whose slots are not known, or fewer than one device.
    """
    if optimizer not in OPTIMIZER_SLOTS:
        known = ", ".join(OPTIMIZER_SLOTS)
        raise ValueError(f"optimizer must be one of {known} to count its slots, got {optimizer!r}")
    if devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    size = tf.as_dtype(model.variable_dtype).size
    everything, experts = weights_per_device(model, devices)
    weights = size * everything.count()
    slots = {name: size * slots_of(everything) for name, slots_of in OPTIMIZER_SLOTS.items()}
    kept, recomputed, own = (
        tokens * bytes_per_position(model, recompute) for recompute in (False, True, None)
    )
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer_slots": slots[optimizer],
        "optimizer_slots_by_optimizer": slots,
        "experts": {
            "weights": size * experts.count(),
            "gradients": size * experts.count(),
            "optimizer_slots_by_optimizer": {
                name: size * slots_of(experts) for name, slots_of in OPTIMIZER_SLOTS.items()
            },
        },
        "activations": own,
        "activations_without_recompute": kept,
        "activations_with_recompute": recomputed,
        "total": 2 * weights + slots[optimizer] + own,
    }


class Weights(NamedTuple):
    """Weights, by what an optimizer makes of them.

    Attributes:
        expert_kernels: list of `(E, inputs, outputs)`, stacks of matrices.
        others: how many numbers the other variables have together.
    """

    expert_kernels: list
    others: int

    def count(self):
        """Numbers in all of them."""
        return self.others + sum(e * inputs * outputs for e, inputs, outputs in self.expert_kernels)


def adam_slots(weights):
    """Numbers in Adam's slots: two of each weight's size, for β1 = 0 too."""
    return 2 * weights.count()


def factored_adam_slots(weights):
    """Numbers in FactoredAdam's slots (App. D): of each expert's matrix the averages over rows and
    over columns, `inputs + outputs`; Adam's for the other variables.
    """
    factors = sum(e * (inputs + outputs) for e, inputs, outputs in weights.expert_kernels)
    return factors + 2 * weights.others


OPTIMIZER_SLOTS = {"adam": adam_slots, "factored_adam": factored_adam_slots}


def weights_per_device(model, devices=1):
    """The weights that one of `devices` holds: `(all, the experts' alone)`, two `Weights`."""
    width = model.d_model
    kernels, biases = [], 0
    others = model.vocabulary_size * width + model.softmax.parameter_count(width)
    for layer in named_layers(model).values():
        others += layer.parameter_count(width)
        if not isinstance(layer, MoE):
            continue
        experts, here = layer.experts, experts_per_device(layer, devices)
        others -= experts.parameter_count(width)
        if layer.groups is not None:
            secondary = layer.gate.secondary.parameter_count(width)
            others += secondary * here // layer.num_experts - secondary
        widths = [width, *[experts.hidden_units] * experts.depth, width]
        kernels += [(here, *widths[i : i + 2]) for i in range(len(widths) - 1)]
        biases += here * sum(widths[1:]) if experts.use_bias else 0
    return Weights(kernels, others + biases), Weights(kernels, biases)


def experts_per_device(moe, devices):
    """Experts of a `MoE` on the fullest device: `⌈n/R⌉`, in whole groups if there are any."""
    together = 1 if moe.groups is None else moe.num_experts // moe.groups
    return -(-moe.num_experts // together // devices) * together


def bytes_per_position(model, recompute=None):
    """Bytes of activations that the backward pass needs, for one position of a batch.

    - Of each block what its layer keeps (`kept_by_layer`), the output of the activation around it
      (the sigmoid of a mixture), and a byte for each element that dropout may drop.
    - Of the loss the last block's output, the target's row of the softmax and a float32 logit for
      each candidate: `num_sampled` (at most; some draws coincide) and the target, or all words.

    Args:
        model: a `tfmoe.models.LanguageModel`.
        recompute: whether the hidden activations of experts are computed again; `None` for what
            each layer is set to.
    """
    width, size = model.d_model, tf.as_dtype(model.compute_dtype).size
    mask = width if model.dropout.rate else 0
    candidates = model.vocabulary_size
    loss = width * size
    if model.softmax.num_sampled is not None:
        candidates = model.softmax.num_sampled + 1
        loss += 4 * width
    total = mask + loss + 4 * candidates
    for block in model.blocks:
        always, hidden = kept_by_layer(block.layer, width)
        again = getattr(block.layer, "experts", None) is not None and (
            block.layer.experts.recompute if recompute is None else recompute
        )
        total += always + (0 if again else hidden)
        total += 0 if block.activation is keras.activations.linear else width * size
        total += width if block.dropout.rate else 0
    return total


def kept_by_layer(layer, width):
    """Bytes that a layer keeps for one position: `(always, hidden)`, the second without need if
    hidden activations are computed again.

    - `ProjectedLSTM`: its input D; four gates, the cell, its tanh and the output, `7·U`; the
      projected output that recurs.
    - `FeedForward`: its input and hidden activations, `D + depth·H` (twice H for activations such
      as gelu, whose gradient needs their input too).
    - `MoE`: the gate's input D (and, for secondary gates, once for each group a position goes to),
      `KEPT_PER_GATE_PRODUCT` numbers for each expert weighed by each gate matrix, in the gate's
      type; the rows sent to experts and those that come back, `2·K·D`; hidden activations,
      `K·depth·H` (or twice that).

    Raises:
        TypeError: for a layer of another kind.
    """
    size = tf.as_dtype(layer.compute_dtype).size
    if isinstance(layer, ProjectedLSTM):
        cell = layer.cell
        projected = cell.projection_units or 0
        return size * (width + 7 * cell.units + projected), 0
    if isinstance(layer, FeedForward):
        return size * (width + _hidden(layer)), 0
    if isinstance(layer, MoE):
        gate = layer.gate
        products = gate.ops_per_timestep(width) // width
        inputs = 1 if layer.groups is None else 1 + gate.primary.num_selected
        of_gate = inputs * width + KEPT_PER_GATE_PRODUCT * products
        rows = 2 * gate.num_selected * width
        hidden = gate.num_selected * _hidden(layer.experts)
        return tf.as_dtype(gate.compute_dtype).size * of_gate + size * rows, size * hidden
    raise TypeError(f"what {layer.name}, a {type(layer).__name__}, keeps is not known")


def _hidden(layer):
    """Numbers kept of the hidden layers of one network."""
    from_output = keras.activations.serialize(layer.activation) in GRADIENT_FROM_OUTPUT
    return layer.depth * layer.hidden_units * (1 if from_output else 2)
