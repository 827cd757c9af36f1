"""What a model costs: multiply-adds and parameters, counted without building it.

The paper's count of operations (ops/timestep) is of multiply-adds in a forward step for one token:
every matrix once for an LSTM, the selected experts of a mixture. Biases count as parameters but not
as operations. What else counts differs:

- Language models (Tables 7 and 8): all matrices of the gates that are computed; neither embedding
  nor softmax.
- Translation models (Tables 2 to 5): one token of the source through the encoder and one of the
  target through the decoder, the context's way into its first LSTM included, and the softmax;
  neither gates nor the attention's own matrices.
"""

from tfmoe.layers import MoE
from tfmoe.models import TranslationModel


def describe(model):
    """Operations and parameters of a model. Nothing is built: it takes no memory whatever the size.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.

    Returns:
        A dictionary of integers:

        - `ops_per_timestep`: multiply-adds for one token, as the paper counts for such a model.
        - `ops_by_layer`: what each block adds to it, by the name of its layer; with its gates for a
          language model, without them for a translation model.
        - `ops_of_softmax`: what the softmax adds to it; 0 for a language model.
        - `parameters`: `total`; `excluding_embedding_and_softmax`; `experts`, in the experts of all
          mixtures, gates excluded; `embedding`; `softmax`, its bias included; `by_layer`, by the
          name of each block's layer.
    """
    width = model.d_model
    layers = named_layers(model)
    translates = isinstance(model, TranslationModel)
    ops = {
        name: layer.ops_per_timestep(width) - (gate_ops(layer, width) if translates else 0)
        for name, layer in layers.items()
    }
    ops_of_softmax = model.softmax.ops_per_timestep(width) if translates else 0
    by_layer = {name: layer.parameter_count(width) for name, layer in layers.items()}
    embedding = model.vocabulary_size * width
    softmax = model.softmax.parameter_count(width)
    inner = sum(by_layer.values())
    return {
        "ops_per_timestep": sum(ops.values()) + ops_of_softmax,
        "ops_by_layer": ops,
        "ops_of_softmax": ops_of_softmax,
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


def positions_by_layer(model, positions):
    """How many positions of a batch each layer of a model's blocks sees: `{name: positions}`, as
    `named_layers`.

    Of a translation model the encoder sees the source's, the decoder the target's: half of them
    each is assumed (rounded up).

    Args:
        positions: of the batch, source and target together.
    """
    if isinstance(model, TranslationModel):
        positions = -(-positions // 2)
    return dict.fromkeys(named_layers(model), positions)


def gate_ops(layer, input_dim):
    """Multiply-adds of a layer's gates for one token, 0 for a layer that has none."""
    return layer.gate.ops_per_timestep(input_dim) if isinstance(layer, MoE) else 0


def expert_parameters(layer, input_dim):
    """Weights of a layer's experts, 0 for a layer that has none."""
    experts = getattr(layer, "experts", None)
    return 0 if experts is None else experts.parameter_count(input_dim)
