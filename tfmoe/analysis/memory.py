"""What a training step holds in the memory of one device, counted without building the model.

Axes: T positions of a batch on one device, S steps of a source sentence, E experts, K selected
experts per position, D model, H hidden, U units of an LSTM, A attention units, R devices. How
devices share the variables: see `variables`.
"""

import math

import keras
import tensorflow as tf

from tfmoe.analysis.operations import positions_by_layer
from tfmoe.analysis.variables import variables_per_device
from tfmoe.gating import Batchwise
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM
from tfmoe.models import TranslationModel
from tfmoe.optimizers.factoring import choose, slot_shapes

# Numbers that a gate keeps for each expert that it weighs, per matrix: a noisy gate's gradient
# needs 7 tensors [T, E] for its 2 matrices (draw, W_noise's product, σ, its bounded value,
# numerator, quotient and argument of Φ in eq 9).
KEPT_PER_GATE_PRODUCT = 4
# A strictly balanced gate's gradients need 2 tensors [T, E] for its one matrix: G_σ, and its excess
# over the thresholds (eq 20).
KEPT_PER_BATCHWISE_PRODUCT = 2
# Activations whose gradient follows from their output; others need their input too.
GRADIENT_FROM_OUTPUT = {"relu", "relu6", "sigmoid", "tanh", "elu", "selu", "linear"}


def memory_per_device(model, tokens, devices=1, optimizer="adam", source_length=0, **options):
    """Bytes that a training step holds on one device.

    Weights, their gradients and slots are of the variables' type. A gradient is counted as large as
    its weight, also where it arrives as some rows of an embedding. Activations are those tensors
    that the backward pass must keep from the forward pass, for `tokens` positions, none of them
    padding, spread evenly over the experts; of a translation model half are the source's and half
    the target's. See `activation_bytes`. Not counted: temporary tensors
    within an operation, the integers and masks of routing, copies of weights in another compute
    type, and what the framework needs.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        tokens: T, positions of a batch on each device, source and target together.
        devices: R.
        optimizer: the one to train with, a key of `OPTIMIZER_SLOTS`.
        source_length: S, for the weights of a translation model's attention: each target position
            keeps some for each step of its source. The config's longest sentences give the most
            that they can be; 0 leaves them out.
        **options: those of its arguments that its slots depend on.

    Returns:
        A dictionary of integers, in bytes:

        - `weights`, `gradients`; `optimizer_slots` of `optimizer`, and
          `optimizer_slots_by_optimizer` of each that is known, with its defaults.
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
    everything = variables_per_device(model, devices)
    experts = [variable for variable in everything if variable.of_experts]
    weights, expert_weights = size * _numbers(everything), size * _numbers(experts)
    slots = size * OPTIMIZER_SLOTS[optimizer](everything, **options)
    kept, recomputed, own = (
        activation_bytes(model, tokens, recompute, source_length)
        for recompute in (False, True, None)
    )
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer_slots": slots,
        "optimizer_slots_by_optimizer": _by_optimizer(everything, size),
        "experts": {
            "weights": expert_weights,
            "gradients": expert_weights,
            "optimizer_slots_by_optimizer": _by_optimizer(experts, size),
        },
        "activations": own,
        "activations_without_recompute": kept,
        "activations_with_recompute": recomputed,
        "total": 2 * weights + slots + own,
    }


def adam_slots(variables):
    """Numbers in the slots of Keras' Adam: two of each variable's size, for β1 = 0 too."""
    return 2 * _numbers(variables)


def factored_adam_slots(variables, factored="experts", factored_beta_1=0.0):
    """Numbers in FactoredAdam's slots (App. D): of each matrix of a factored variable the averages
    over rows and over columns, `inputs + outputs`, and with β1 > 0 a first moment of its size;
    Adam's for the other variables.

    Args:
        variables: list of `Variable`.
        factored, factored_beta_1: as of `tfmoe.optimizers.FactoredAdam`.
    """
    factors, others = _factored(variables, factored)
    momentum = _numbers(variables) - others if factored_beta_1 else 0
    return factors + momentum + 2 * others


def factored_adagrad_slots(variables, factored="experts"):
    """Likewise FactoredAdagrad's, which has one slot for each of the other variables."""
    factors, others = _factored(variables, factored)
    return factors + others


OPTIMIZER_SLOTS = {
    "adam": adam_slots,
    "factored_adam": factored_adam_slots,
    "factored_adagrad": factored_adagrad_slots,
}


def _factored(variables, rule):
    """`(numbers in the factors of those that a rule chooses, numbers in the others)`."""
    factors = others = 0
    for variable, is_factored in zip(variables, choose(variables, rule), strict=True):
        if is_factored:
            factors += sum(math.prod(shape) for shape in slot_shapes(variable.shape))
        else:
            others += variable.size
    return factors, others


def _by_optimizer(variables, size):
    return {name: size * slots_of(variables) for name, slots_of in OPTIMIZER_SLOTS.items()}


def _numbers(variables):
    return sum(variable.size for variable in variables)


def activation_bytes(model, tokens, recompute=None, source_length=0):
    """Bytes of activations that the backward pass needs.

    - Behind the embedding a byte for each element that dropout may drop.
    - Of each block what its layer keeps (`kept_by_layer`) of the positions that it sees, the output
      of the activation around it (the sigmoid of a mixture), and a byte for each element that
      dropout may drop.
    - Of the source what the attention keeps (`kept_of_source`).
    - Of the loss, for each position that predicts, the last block's output, the target's row of the
      softmax and a float32 logit for each candidate: `num_sampled` (at most; some draws coincide)
      and the target, or all words.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`.
        tokens: T; see `tfmoe.analysis.operations.positions_by_layer`.
        recompute: whether the hidden activations of experts are computed again; `None` for what
            each layer is set to.
        source_length: S.
    """
    width, size = model.d_model, tf.as_dtype(model.compute_dtype).size
    candidates = model.vocabulary_size
    loss = width * size
    if model.softmax.num_sampled is not None:
        candidates = model.softmax.num_sampled + 1
        loss += 4 * width
    positions = list(positions_by_layer(model, tokens).values())
    total = (width if model.dropout.rate else 0) * tokens
    total += positions[-1] * (loss + 4 * candidates)
    if isinstance(model, TranslationModel):
        total += positions[0] * kept_of_source(model.decoder[0].layer, width)
    for block, seen in zip(model.blocks, positions, strict=True):
        always, hidden = kept_by_layer(block.layer, width, source_length)
        again = getattr(block.layer, "experts", None) is not None and (
            block.layer.experts.recompute if recompute is None else recompute
        )
        kept = always + (0 if again else hidden)
        kept += 0 if block.activation is keras.activations.linear else width * size
        kept += width if block.dropout.rate else 0
        total += seen * kept
    return total


def kept_by_layer(layer, width, source_length=0):
    """Bytes that a layer keeps for one position: `(always, hidden)`, the second without need if
    hidden activations are computed again.

    - `ProjectedLSTM`: its input D; four gates, the cell, its tanh and the output, `7·U`; the
      projected output that recurs.
    - `AttentionLSTM`, for a target position: the same (its output is the query too); the context D;
      the attention's weights before and after its mask, `2·S`, of which the first are float32; the
      tanh of what it makes of the query, A, or with additive attention of each step's sum, `S·A`.
    - `FeedForward`: its input and hidden activations, `D + depth·H`; 2·H for activations such as
      gelu, whose gradient needs their input too.
    - `MoE`: the gate's input D (and, for secondary gates, once for each group a position goes to),
      `KEPT_PER_GATE_PRODUCT` numbers for each expert weighed by each gate matrix
      (`KEPT_PER_BATCHWISE_PRODUCT` if strictly balanced), in the gate's type; the rows sent to
      experts and those that come back, `2·K·D`, and those that come back from groups; hidden
      activations, `K·depth·H` (only what the activation gets: its output is always computed again).

    Raises:
        TypeError: for a layer of another kind.
    """
    size = tf.as_dtype(layer.compute_dtype).size
    if isinstance(layer, ProjectedLSTM):
        return size * _kept_by_lstm(layer.cell, width), 0
    if isinstance(layer, AttentionLSTM):
        units = layer.attention.units
        tanh = units * (source_length if layer.attention.kind == "additive" else 1)
        of_sentence = (4 + size) * source_length
        return size * (_kept_by_lstm(layer.cell, width) + width + tanh) + of_sentence, 0
    if isinstance(layer, FeedForward):
        activation = keras.activations.serialize(layer.activation)
        copies = 1 if activation in GRADIENT_FROM_OUTPUT else 2
        return size * (width + copies * layer.depth * layer.hidden_units), 0
    if isinstance(layer, MoE):
        gate = layer.gate
        first = gate if layer.gate.groups is None else gate.primary
        inputs = 1 if layer.gate.groups is None else 1 + first.num_selected
        products = gate.ops_per_timestep(width) // width
        strictly = isinstance(first, Batchwise)
        per_product = KEPT_PER_BATCHWISE_PRODUCT if strictly else KEPT_PER_GATE_PRODUCT
        of_gate = inputs * width + per_product * products
        rows = 2 * gate.num_selected * width
        if layer.gate.groups is not None:
            rows += first.num_selected * width
        hidden = gate.num_selected * layer.experts.depth * layer.experts.hidden_units
        return tf.as_dtype(gate.compute_dtype).size * of_gate + size * rows, size * hidden
    raise TypeError(f"what {layer.name}, a {type(layer).__name__}, keeps is not known")


def kept_of_source(layer, width):
    """Bytes that an `AttentionLSTM` keeps for one source position: the source vector D; with
    multiplicative attention its part of the scores before and after their scale, `2·A`.
    """
    attention = layer.attention
    of_scores = 2 * attention.units if attention.kind == "multiplicative" else 0
    return tf.as_dtype(layer.compute_dtype).size * (width + of_scores)


def _kept_by_lstm(cell, width):
    return width + 7 * cell.units + (cell.projection_units or 0)
