"""What a model costs: multiply-adds and parameters, counted without allocating it.

The paper's count of operations (ops/timestep) is of multiply-adds in a forward step for one token:
every matrix once for an LSTM, the selected experts of a mixture. Biases count as parameters but not
as operations. What else counts a model says itself (`tfmoe.models.word_predictor`):

- Language models (Tables 7 and 8): all matrices of the gates that are computed; neither embedding
  nor softmax.
- Translation models (Tables 2 to 5): one token of the source through the encoder and one of the
  target through the decoder, the context's way into its first LSTM included, and the softmax;
  neither gates nor the attention's own matrices.
"""

from tfmoe.analysis.variables import GraphBuild


def describe(model, built=None):
    """Operations and parameters of a model. It takes no memory whatever the size.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        built: its `tfmoe.analysis.variables.GraphBuild`; `None` to make one.

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
    ops = {name: ops_of_block(block, model) for name, block in named_blocks(model).items()}
    built = built or GraphBuild(model)

    def parameters(layer):
        return sum(variable.size for variable in built.variables(layer))

    by_layer = {name: parameters(block) for name, block in named_blocks(built.layer).items()}
    return {
        "ops_per_timestep": ops_per_timestep(model),
        "ops_by_layer": ops,
        "ops_of_softmax": ops_of_softmax(model),
        "parameters": {
            "total": parameters(built.layer),
            "excluding_embedding_and_softmax": sum(by_layer.values()),
            "experts": sum(each.size for each in built.variables() if each.of_experts),
            "embedding": parameters(built.layer.embedding),
            "softmax": parameters(built.layer.softmax),
            "by_layer": by_layer,
        },
    }


def ops_per_timestep(model):
    """Multiply-adds of a model for one token, as the paper counts for such a model."""
    blocks = sum(ops_of_block(block, model) for block in model.blocks)
    return blocks + ops_of_softmax(model)


def ops_of_softmax(model):
    """What the softmax adds to `ops_per_timestep`."""
    return model.softmax.ops_per_timestep(model.d_model) if model.counts_softmax else 0


def ops_of_block(block, model):
    """What a block of a model adds to `ops_per_timestep`."""
    ops = block.ops_per_timestep(model.d_model)
    return ops if model.counts_gates else ops - block.gate_ops_per_timestep(model.d_model)


def named_blocks(model):
    """The blocks of a model by the names of the layers within their residual connections: `{name:
    block}`, in order.

    Where a name occurs twice, the place is added, so that no layer is lost: `"lstm"`, `"lstm (block
    2)"`.
    """
    blocks = {}
    for index, block in enumerate(model.blocks):
        name = getattr(block, "layer", block).name
        blocks[f"{name} (block {index})" if name in blocks else name] = block
    return blocks
