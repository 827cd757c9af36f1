"""What a model costs: multiply-adds and parameters, counted without building it.

The paper's count of operations (ops/timestep, Tables 7 and 8) is of multiply-adds in a forward step
for one token, without embedding and softmax: every matrix once for an LSTM, the selected experts of
a mixture, and all matrices of its gates that are computed. Biases count as parameters but not as
operations.
"""


def describe(model):
    """Operations and parameters of a model. Nothing is built: it takes no memory whatever the size.

    Args:
        model: a `tfmoe.models.LanguageModel`, built or not.

    Returns:
        A dictionary of integers:

        - `ops_per_timestep`: multiply-adds for one token, without embedding and softmax.
        - `ops_by_layer`: the same for each block, by the name of its layer.
        - `parameters`: `total`; `excluding_embedding_and_softmax`; `experts`, in the experts of all
          mixtures, gates excluded; `embedding`; `softmax`, its bias included; `by_layer`, by the
          name of each block's layer.
    """
    width = model.d_model
    layers = named_layers(model)
    ops = {name: layer.ops_per_timestep(width) for name, layer in layers.items()}
    by_layer = {name: layer.parameter_count(width) for name, layer in layers.items()}
    embedding = model.vocabulary_size * width
    softmax = model.softmax.parameter_count(width)
    inner = sum(by_layer.values())
    return {
        "ops_per_timestep": sum(ops.values()),
        "ops_by_layer": ops,
        "parameters": {
            "total": embedding + inner + softmax,
            "excluding_embedding_and_softmax": inner,
            "experts": sum(expert_parameters(layer, width) for layer in layers.values()),
            "embedding": embedding,
            "softmax": softmax,
            "by_layer": by_layer,
        },
    }


def named_layers(model):
    """The layers of a model's blocks, without their residual connections: `{name: layer}`, in
    order.

    Where a name occurs twice, the place is added, so that no layer is lost: `"lstm"`, `"lstm (block
    2)"`.
    """
    layers = {}
    for index, block in enumerate(model.blocks):
        name = block.layer.name
        layers[f"{name} (block {index})" if name in layers else name] = block.layer
    return layers


def expert_parameters(layer, input_dim):
    """Weights of a layer's experts, 0 for a layer that has none."""
    experts = getattr(layer, "experts", None)
    return 0 if experts is None else experts.parameter_count(input_dim)
