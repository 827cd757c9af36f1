"""What a training step holds in the memory of one device, counted without allocating the model.

Axes: T positions of a batch on one device, S positions of a sentence, R devices. How devices share
the variables: see `variables`.
"""

import keras

from tfmoe.analysis.variables import GraphBuild
from tfmoe.optimizers import FactoredAdagrad, FactoredAdam

# Optimizers whose slots are counted beside those of the one to train with.
COMPARED = {
    "adam": keras.optimizers.Adam,
    "factored_adam": FactoredAdam,
    "factored_adagrad": FactoredAdagrad,
}


def memory_per_device(model, tokens, devices=1, optimizer="adam", steps=0, built=None):
    """Bytes that a training step holds on one device.

    A gradient is counted as large as its weight, also where it arrives as some rows of an
    embedding. Activations are those tensors that the backward pass must keep from the forward pass,
    for `tokens` positions, none of them padding, spread evenly over the experts; of a translation
    model half are the source's and half the target's. See `activation_bytes`. Not counted:
    temporary tensors within an operation, the integers and masks of routing, copies of weights in
    another compute type, and what the framework needs.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        tokens: T, positions of a batch on each device, source and target together.
        devices: R.
        optimizer: the one to train with: a Keras optimizer, a key of `COMPARED`, or a name or
            configuration that `keras.optimizers.get` takes.
        steps: S, for the weights of attention: a position keeps some for each position that it
            attends to. The config's longest sentences give the most that they can be; 0 leaves them
            out.
        built: the model's `tfmoe.analysis.variables.GraphBuild`; `None` to make one.

    Returns:
        A dictionary of integers, in bytes:

        - `weights`, `gradients`; `optimizer_slots` of `optimizer`, and
          `optimizer_slots_by_optimizer` of each of `COMPARED`, with its defaults.
        - `experts`: how much of this is the experts': `weights`, `gradients` and
          `optimizer_slots_by_optimizer`.
        - `activations` as the model's layers are set; `activations_without_recompute` and
          `activations_with_recompute`, if no mixture or every one computed its experts' hidden
          activations again in the backward pass.
        - `total`: weights, gradients, optimizer_slots and activations.

    Raises:
        ValueError: for an optimizer that Keras does not know, or fewer than one device.
    """
    if devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    built = built or GraphBuild(model)

    def bytes_of(variables, of_experts=False):
        here = [each.on_each_device(devices) for each in variables]
        return sum(each.bytes for each in here if each.of_experts or not of_experts)

    slots = {name: built.slots(optimizer_of(name)) for name in COMPARED}
    weights, expert_weights = (bytes_of(built.variables(), only) for only in (False, True))
    own_slots = bytes_of(built.slots(optimizer_of(optimizer)))
    kept, recomputed, own = (
        activation_bytes(model, tokens, recompute, steps) for recompute in (False, True, None)
    )
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer_slots": own_slots,
        "optimizer_slots_by_optimizer": {name: bytes_of(each) for name, each in slots.items()},
        "experts": {
            "weights": expert_weights,
            "gradients": expert_weights,
            "optimizer_slots_by_optimizer": {
                name: bytes_of(each, of_experts=True) for name, each in slots.items()
            },
        },
        "activations": own,
        "activations_without_recompute": kept,
        "activations_with_recompute": recomputed,
        "total": 2 * weights + own_slots + own,
    }


def optimizer_of(identifier):
    """The Keras optimizer that an argument of `memory_per_device` stands for."""
    if isinstance(identifier, str) and identifier in COMPARED:
        return COMPARED[identifier](name=identifier)
    return keras.optimizers.get(identifier)


def activation_bytes(model, tokens, recompute=None, steps=0):
    """Bytes of activations that the backward pass needs.

    - Behind the embedding a byte for each element that dropout may drop.
    - Of each block what it keeps of the positions that it sees (`Block.kept_for_backward`).
    - What blocks keep of a source that they attend to (`Block.kept_of_source`).
    - What the softmax keeps of each position that predicts.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`.
        tokens: T.
        recompute: whether the hidden activations of experts are computed again; `None` for what
            each layer is set to.
        steps: S.
    """
    width = model.d_model
    total = (width if model.dropout.rate else 0) * tokens
    total += model.predicting_positions(tokens) * model.softmax.kept_for_backward(width)
    total += model.kept_of_source(tokens)
    for block, seen in zip(model.blocks, model.positions_by_block(tokens), strict=True):
        total += seen * block.kept_for_backward(width, steps).total(recompute)
    return total
