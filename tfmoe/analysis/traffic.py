"""The all-to-all traffic of a training step under mixed data and expert parallelism (section 3 of
the paper).

Symbols: b positions on each device, R devices, n experts, k experts selected per position, D model,
H hidden.
"""

import keras

from tfmoe.analysis.operations import named_blocks
from tfmoe.layers.mixture_layer import expert_layers_of


def traffic(model: keras.Model, tokens: int, devices: int = 1) -> dict[str, dict]:
    """Computes the all-to-all traffic of each mixture of a model.

    A mixture is named after its block's layer. If a block has several mixtures, the mixture's own
    name follows: `"attention/moe"`.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        tokens: b, positions of a batch on each device. A mixture of a translation model processes
            half of them, the source positions or the target positions.
        devices: R.

    Returns:
        `{name: traffic_of(mixture, …)}`, empty for a model without mixtures.
    """
    result, positions = {}, model.positions_by_block(tokens)
    for (name, block), num_positions in zip(named_blocks(model).items(), positions, strict=True):
        mixtures = expert_layers_of(block)
        for inner_name, mixture in mixtures.items():
            full_name = name if len(mixtures) == 1 else f"{name}/{inner_name}"
            result[full_name] = traffic_of(mixture, model.d_model, num_positions, devices)
    return result


def traffic_of(mixture: keras.Layer, width: int, tokens: int, devices: int = 1) -> dict:
    """Computes the all-to-all traffic of a mixture with evenly loaded devices and experts.

    An example is a vector of D numbers in the compute type. It is sent c times: once for each
    selected expert (c = k), or in a hierarchical mixture once for each selected group
    (c = k_primary), because a secondary mixture is on one device; with more devices than groups it
    is not, and c = k. Each example is sent and returned in the forward pass, and its gradient is
    sent and returned in the backward pass. `(R-1)/R` of all examples go to another device:

        bytes sent = 4 · c · b · D · bytes per number · (R-1)/R

    (rounded up). Padding and the experts' weights and gradients are not sent. The gradients of
    replicated weights are not included: `tfmoe.analysis.gradient_traffic` counts them.

    With `Batchwise` gates, k is the mean over positions, and all experts' batches have equal size.

    An expert computes `2·D·H` multiply-adds for an example, and the traffic for it is D numbers in
    and D numbers out. The paper's ratio of computation to communication is therefore
    `2·D·H / 2·D = H`, the hidden size (plus `(depth-1)·H²/2·D` for deeper experts; 1.5 times as
    large for gated ones). It should exceed the device's ratio of arithmetic to bandwidth.

    The experts of a `MoELSTM` are matrices with other widths, `MoELSTM.row_widths`. If they run in
    its loop, all matrices are gathered on every device instead of sending examples.

    Args:
        mixture: a `tfmoe.layers.MoE` or `MoELSTM`.
        width: D.
        tokens: b.
        devices: R.

    Returns:
        A dictionary:

        - `experts_per_device`: n/R, of the fullest device.
        - `expert_batch`: float, `k·b·R/n`, examples per expert and step. In a hierarchical mixture,
          k is the product of both levels' k.
        - `bytes_sent`: bytes sent by each device in a step.
        - `compute_to_communication`: float, forward multiply-adds of an expert per number received
          or returned.
        - `multiply_adds_per_byte_sent`: float, multiply-adds of a device's experts in a step over
          `bytes_sent`, with the backward pass counted as twice the forward pass; `None` if nothing
          is sent.
    """
    num_selected, experts = mixture.num_selected, mixture.experts
    row_widths = mixture.row_widths(width)
    ops = experts.ops_per_row(row_widths[0])
    sent = mixture.bytes_sent(width, tokens, devices)
    return {
        "experts_per_device": experts.per_device(devices),
        "expert_batch": num_selected * tokens * devices / experts.num_experts,
        "bytes_sent": sent,
        "compute_to_communication": ops / sum(row_widths),
        "multiply_adds_per_byte_sent": 3 * num_selected * tokens * ops / sent if sent else None,
    }
