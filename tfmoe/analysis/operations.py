"""The costs of a model: multiply-adds and parameters, computed without allocating it.

The paper's operation count (ops/timestep) is the number of multiply-adds in a forward step for one
token: every matrix of an LSTM once, and the selected experts of a mixture. Biases count as
parameters but not as operations. The rest depends on the kind of model
(`tfmoe.models.word_predictor`):

- Language models (Tables 7 and 8): includes all gate matrices that are computed; excludes embedding
  and softmax.
- Translation models (Tables 2 to 5): one source token through the encoder and one target token
  through the decoder. Includes the context vector's matrix in the decoder's first LSTM, and the
  softmax; excludes gates and the attention's own matrices.
"""

import keras

from tfmoe.analysis.variables import GraphBuild


def describe(model: keras.Model, built: GraphBuild | None = None) -> dict:
    """Computes operations and parameters of a model, without memory for its weights.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        built: the model's `tfmoe.analysis.variables.GraphBuild`; `None` to create it.

    Returns:
        A dictionary of integers:

        - `ops_per_timestep`: multiply-adds for one token, counted as the paper does for this kind
          of model.
        - `ops_by_layer`: each block's share of `ops_per_timestep`, by the name of its layer, with
          gates for a language model and without gates for a translation model.
        - `ops_of_softmax`: the softmax's share; 0 for a language model.
        - `parameters`: `total`; `excluding_embedding_and_softmax`; `experts` (of all mixtures,
          without gates); `embedding`; `softmax` (with bias); `by_layer`, by the name of each
          block's layer.
    """
    ops = {name: ops_of_block(block, model) for name, block in named_blocks(model).items()}
    built = built or GraphBuild(model)

    def parameters(layer):
        return sum(variable.size for variable in built.variables(layer))

    by_layer = {name: parameters(block) for name, block in named_blocks(built.layer).items()}
    total, embedding, softmax = (
        parameters(layer) for layer in (built.layer, built.layer.embedding, built.layer.softmax)
    )
    return {
        "ops_per_timestep": ops_per_timestep(model),
        "ops_by_layer": ops,
        "ops_of_softmax": ops_of_softmax(model),
        "parameters": {
            "total": total,
            "excluding_embedding_and_softmax": total - embedding - softmax,
            "experts": sum(v.size for v in built.variables() if v.in_experts),
            "embedding": embedding,
            "softmax": softmax,
            "by_layer": by_layer,
        },
    }


def ops_per_timestep(model):
    """Multiply-adds for one token, counted as the paper does for this kind of model."""
    blocks = sum(ops_of_block(block, model) for block in model.blocks)
    return blocks + ops_of_softmax(model)


def ops_of_softmax(model):
    """The softmax's share of `ops_per_timestep`."""
    return model.softmax.ops_per_timestep(model.d_model) if model.counts_softmax else 0


def ops_of_block(block, model):
    """A block's share of `ops_per_timestep`."""
    ops = block.ops_per_timestep(model.d_model)
    return ops if model.counts_gates else ops - block.gate_ops_per_timestep(model.d_model)


def named_blocks(model):
    """The blocks of a model by the names of the layers that they wrap: `{name: block}`, in order.

    A repeated name gets the block's index as a suffix: `"lstm"`, `"lstm (block 2)"`.
    """
    blocks = {}
    for index, block in enumerate(model.blocks):
        name = getattr(block, "layer", block).name
        blocks[f"{name} (block {index})" if name in blocks else name] = block
    return blocks
