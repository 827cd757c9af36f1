"""The memory of a training step on one device, computed without allocating the model.

Axes: T positions of a batch on one device, S positions of a sentence, R devices. `variables`
describes how devices share the variables.
"""

import keras
import tensorflow as tf

from tfmoe.analysis.variables import GraphBuild
from tfmoe.optimizers import FactoredAdagrad, FactoredAdam

# Optimizers whose slots are reported in addition to the slots of the model's optimizer.
COMPARED = {
    "adam": keras.optimizers.Adam,
    "factored_adam": FactoredAdam,
    "factored_adagrad": FactoredAdagrad,
}


def memory_per_device(
    model: keras.Model,
    tokens: int,
    devices: int = 1,
    optimizer: str | dict | keras.optimizers.Optimizer = "adam",
    steps: int = 0,
    built: GraphBuild | None = None,
) -> dict:
    """Bytes of memory that a training step needs on one device.

    A gradient counts as large as its weight, even if it consists of a few rows of an embedding.
    Activations are the tensors of the forward pass that the backward pass needs, for `tokens`
    positions without padding, spread evenly over the experts (see `activation_bytes`). In a
    translation model, half of the positions are source positions and half are target positions. Not
    included: temporary tensors within an operation, integers and masks of routing, copies of
    weights in another compute type, and the framework's own memory.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        tokens: T, positions of a batch on each device, source and target together.
        devices: R.
        optimizer: the optimizer of the training: a Keras optimizer, a key of `COMPARED`, or a name
            or configuration that `keras.optimizers.get` accepts.
        steps: S, which determines the attention weights: a position keeps weights for each position
            that it attends to. The longest sentences of a config give an upper bound; 0 ignores
            these weights.
        built: the model's `tfmoe.analysis.variables.GraphBuild`; `None` to create it.

    Returns:
        A dictionary of integers, in bytes:

        - `weights` and `gradients`.
        - `optimizer_slots` of `optimizer`, and `optimizer_slots_by_optimizer` of each optimizer in
          `COMPARED` with its default settings.
        - `experts`: the part of the experts: `weights`, `gradients` and
          `optimizer_slots_by_optimizer`.
        - `activations` with the model's current settings; `activations_without_recompute` and
          `activations_with_recompute` if no mixture or every mixture recomputed its experts' hidden
          activations in the backward pass.
        - `total`: weights, gradients, optimizer_slots and activations.

    Raises:
        ValueError: if Keras does not know the optimizer, or `devices` is below 1.
    """
    if devices < 1:
        raise ValueError(f"devices must be at least 1, got {devices}")
    built = built or GraphBuild(model)

    def count_bytes(variables, experts_only=False):
        local = [variable.on_each_device(devices) for variable in variables]
        return sum(part.bytes for part in local if part.in_experts or not experts_only)

    slots = {name: built.slots(get_optimizer(name)) for name in COMPARED}
    weights, expert_weights = (count_bytes(built.variables(), only) for only in (False, True))
    optimizer_slots = count_bytes(built.slots(get_optimizer(optimizer)))
    without_recompute, with_recompute, activations = (
        activation_bytes(model, tokens, recompute, steps) for recompute in (False, True, None)
    )
    return {
        "weights": weights,
        "gradients": weights,
        "optimizer_slots": optimizer_slots,
        "optimizer_slots_by_optimizer": {
            name: count_bytes(variables) for name, variables in slots.items()
        },
        "experts": {
            "weights": expert_weights,
            "gradients": expert_weights,
            "optimizer_slots_by_optimizer": {
                name: count_bytes(variables, experts_only=True) for name, variables in slots.items()
            },
        },
        "activations": activations,
        "activations_without_recompute": without_recompute,
        "activations_with_recompute": with_recompute,
        "total": 2 * weights + optimizer_slots + activations,
    }


def get_optimizer(identifier):
    """The Keras optimizer for the argument `optimizer` of `memory_per_device`."""
    if isinstance(identifier, str) and identifier in COMPARED:
        return COMPARED[identifier](name=identifier)
    return keras.optimizers.get(identifier)


def activation_bytes(
    model: keras.Model, tokens: int, recompute: bool | None = None, steps: int = 0
) -> int:
    """Bytes of activations that the backward pass needs.

    The sum of:

    - one byte for each element of the embedding's output, if the model has dropout,
    - what each block keeps of its positions (`Block.kept_for_backward`),
    - the inputs of the final normalizations, if the model has them,
    - what blocks keep of the source positions they attend to (`Block.kept_of_source`),
    - what the softmax keeps of each predicting position.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`.
        tokens: T.
        recompute: whether the backward pass recomputes the experts' hidden activations; `None` for
            each layer's own setting.
        steps: S.
    """
    width = model.d_model
    total = (width if model.dropout.rate else 0) * tokens
    total += model.predicting_positions(tokens) * model.softmax.kept_for_backward(width)
    total += model.kept_of_source(tokens)
    if model.final_norm is not None:
        total += tf.as_dtype(model.compute_dtype).size * width * tokens
    for block, positions in zip(model.blocks, model.positions_by_block(tokens), strict=True):
        total += positions * block.kept_for_backward(width, steps).total(recompute)
    return total
