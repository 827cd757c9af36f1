"""From a trained model to the functions that are exported."""

from data_pipelines import graph_tokenization
from data_pipelines.corpora import CORPORA
from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.language_model import ServingLanguageModel
from tfmoe.serving.translation import ServingTranslator
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.translation import build_translator

# How exported language models make words of strings.
TOKENIZATIONS = {
    "words": graph_tokenization.split_words,
    "text": graph_tokenization.tokenize_text,
}


def default_tokenization(config):
    """How the training text became tokens, see `data_pipelines.corpora.Corpus`."""
    return CORPORA[config.data.name].tokenization


def set_capacity_aside(model):
    """Lets the experts of a model take all tokens; returns the names of the mixtures which had a
    capacity outside of training.

    What is over the capacity depends on the rest of a batch, and an exported model's answer to a
    sentence must not.
    """
    changed = []
    for name, mixture in mixtures_of(model).items():
        if mixture.evaluation_capacity_factor is not None:
            mixture.evaluation_capacity_factor = None
            changed.append(name)
    return changed


def build_serving_language_model(config, vocabulary, model, tokenization, half=False, top=10):
    """A `ServingLanguageModel` by the settings of a config.

    Args:
        config: a `Config` of a language model.
        vocabulary: its `data_pipelines.Vocabulary`.
        model: the built model.
        tokenization: a key of `TOKENIZATIONS`.
        half: whether large weights are bfloat16.
        top: words that `next_token` gives.

    Returns:
        The `ServingLanguageModel`, and `{name: resource}` that its functions use.
    """
    weights = FrozenWeights(model, half)
    table = vocabulary.lookup_table()
    serving = ServingLanguageModel(
        model,
        weights,
        TOKENIZATIONS[tokenization],
        table,
        vocabulary.decode(range(len(vocabulary))),
        max_length=config.data.max_length,
        top=top,
    )
    return serving, {"weights": weights.variables, "table": table}


def build_serving_translator(config, subwords, model, half=False, **decoding):
    """A `ServingTranslator` by the settings of a config.

    Args:
        config: a `Config` of a translation model.
        subwords: its `data_pipelines.Subwords`.
        model: the built model.
        half: whether large weights are bfloat16.
        **decoding: other values for its `model.decoding`, and `num_best`.

    Returns:
        The `ServingTranslator`, and `{name: resource}` that its functions use.
    """
    weights = FrozenWeights(model, half)
    serving = ServingTranslator(
        build_translator(config, subwords, model, **decoding),
        weights,
        [subwords.piece(index) for index in range(len(subwords))],
    )
    return serving, {"weights": weights.variables, **serving.resources}


def rounded_quality(config, vocabulary, model, callbacks, verbose=0):
    """Measures on the run's test text what weights of half size change, and leaves the model with
    the rounded weights.

    Args:
        config, vocabulary, model: of a run.
        callbacks, verbose: of `model.evaluate`.

    Returns:
        Dictionary: `"perplexity"`, and for translation `"bleu"`, each `{"float32", "bfloat16"}`;
        `"measured"`, on what.

    Raises:
        ValueError: if the config has no test text.
        data_pipelines.TextError: if it is missing.
    """
    task = task_of(config)
    files = task.splits.test
    if not files:
        raise ValueError("the config has no test text (data.test)")
    figures = ["perplexity"] + ["bleu"] * (config.model.name == "translation")
    model.compile(jit_compile=config.training.jit_compile)

    def measured():
        return task.evaluate(model, vocabulary, files, callbacks, verbose)

    whole = measured()
    FrozenWeights(model, half=True).round_model()
    rounded = measured()
    return {
        **{name: {"float32": whole[name], "bfloat16": rounded[name]} for name in figures},
        "measured": "by `evaluate` on the run's test text, before and after rounding the weights",
    }
