"""What travels between devices in a training step under mixed data and expert parallelism
(section 3 of the paper).

Symbols: b positions on each device, R devices, n experts, k selected per position, D model, H
hidden.
"""

import tensorflow as tf

from tfmoe.analysis.operations import named_blocks
from tfmoe.layers.mixture_layer import mixtures_of


def traffic(model, tokens, devices=1):
    """What each mixture of a model sends: `{name: traffic_of(mixture, …)}`; empty if it has none.

    A mixture has the name of its block's layer; one of several in a block has its own name behind
    that, `"attention/moe"`.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        tokens: b, positions of a batch on each device. Each mixture of a translation model sees
            half of them, those of the source or those of the target.
        devices: R.
    """
    found, positions = {}, model.positions_by_block(tokens)
    for (name, block), seen in zip(named_blocks(model).items(), positions, strict=True):
        mixtures = mixtures_of(block)
        for inner, mixture in mixtures.items():
            unique = name if len(mixtures) == 1 else f"{name}/{inner}"
            found[unique] = traffic_of(mixture, model.d_model, seen, devices)
    return found


def traffic_of(mixture, width, tokens, devices=1):
    """What one mixture sends all-to-all, with examples spread evenly over devices and experts.

    An example is a vector of D numbers in the compute type. It leaves for each selected expert, or
    in a hierarchical mixture for each selected group (a secondary mixture lives whole on one
    device), c = k or k_primary times. It goes there and back in the forward pass, its gradient
    there and back in the backward pass; `(R-1)/R` of all go to another device:

        bytes sent = 4 · c · b · D · bytes per number · (R-1)/R

    (rounded up). Padding does not travel, nor do the experts' weights and gradients; the gradients
    of the replicated weights, all-reduced, are not all-to-all and not in here.

    With `Batchwise` gates k is the mean over the positions, and every expert's batch is as large.

    An expert's computation is `2·D·H` multiply-adds for an example, in and out; what travels for it
    is D numbers in and D out. The paper's ratio of computation to communication is therefore
    `2·D·H / 2·D = H`, the hidden size (plus `(depth-1)·H²/2·D` for deeper experts): it should
    exceed the device's ratio of arithmetic to bandwidth.

    Args:
        mixture: a `tfmoe.layers.MoE`.
        width: D.
        tokens: b.
        devices: R.

    Returns:
        A dictionary:

        - `experts_per_device`: n/R (of the fullest device).
        - `expert_batch`: `k·b·R/n`, examples that an expert gets in a step; k is the product of
          both levels' in a hierarchical mixture. A float.
        - `bytes_sent`: by each device in a step.
        - `compute_to_communication`: multiply-adds of an expert per number in or out, forward. A
          float.
        - `multiply_adds_per_byte_sent`: what this comes to: multiply-adds of a device's experts in
          a step, backward counted as twice the forward, over `bytes_sent`. A float; `None` if
          nothing is sent.
    """
    selected, experts = mixture.gate.num_selected, mixture.experts
    size = tf.as_dtype(mixture.compute_dtype).size
    ops = experts.ops_per_row(width)
    sent = -(-4 * mixture.num_sent * tokens * width * size * (devices - 1) // devices)
    return {
        "experts_per_device": experts.per_device(devices),
        "expert_batch": selected * tokens * devices / experts.num_experts,
        "bytes_sent": sent,
        "compute_to_communication": ops / (2 * width),
        "multiply_adds_per_byte_sent": 3 * selected * tokens * ops / sent if sent else None,
    }
