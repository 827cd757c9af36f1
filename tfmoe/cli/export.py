"""`tfmoe export`: writes a trained model as a SavedModel or in another format."""

import contextlib
import pathlib
import sys
from typing import Annotated, Literal

import typer

from tfmoe import tasks
from tfmoe.cli import arguments

Out = Annotated[
    pathlib.Path,
    typer.Argument(
        metavar="OUT",
        help="A folder of numbered versions, created if missing. With another --format than "
        "savedmodel, a folder that does not exist.",
    ),
]
Format = Annotated[
    Literal["savedmodel", "onnx", "litert", "tfjs", "huggingface"],
    typer.Option(
        help="savedmodel; onnx, litert or tfjs: functions on ids for ONNX Runtime, LiteRT or "
        "TensorFlow.js; huggingface: a checkpoint of Mixtral or Qwen3-MoE for Hugging Face "
        "Transformers, of a language model that it can hold.",
    ),
]
Version = Annotated[
    int | None,
    typer.Option(metavar="N", help="The version to write. Default: the one after the last."),
]
Half = Annotated[
    bool,
    typer.Option(
        "--half",
        help="Store matrices in bfloat16, half the size, and measure the effect on the run's test "
        "text. Gates and biases stay float32.",
    ),
]
Int8 = Annotated[
    bool,
    typer.Option(
        "--int8",
        help="Store matrices in int8, a quarter of the size, with a scale for each output of each "
        "expert, and measure the effect on the run's test text. Gates, biases and small matrices "
        "stay float32.",
    ),
]
Tokenization = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Input of a language model: text (running text, which is lower-cased and split like "
        "the embedded text; the default for it) or words (separated by white space; the default "
        "for all other corpora).",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of words that next_token returns. Default: 10."),
]
Beam = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Beam size of translate. Default: the config's, or --nbest if that is larger.",
    ),
]
NBest = Annotated[
    int | None,
    typer.Option(metavar="N", help="Number of translations per sentence. Default: 1."),
]


def export(
    run: arguments.Run,
    out: Out,
    format: Format = "savedmodel",
    version: Version = None,
    weights: arguments.Weights = "best",
    half: Half = False,
    int8: Int8 = False,
    tokenization: Tokenization = None,
    top: Top = None,
    beam: Beam = None,
    nbest: NBest = None,
):
    """Write a trained model as a SavedModel that takes strings, as functions on ids for other
    runtimes, or as a checkpoint of Hugging Face Transformers.

    A SavedModel: versions are written to OUT/1, OUT/2, …, the layout of TensorFlow Serving. An
    existing version is never overwritten, and an incomplete one never appears. A SavedModel
    contains vocabulary and tokenization. It needs TensorFlow, and tensorflow-text for running text
    and translation, but not tfmoe.

    \b
    Signatures of a language model (manifest.json has the types and shapes of the outputs):
      score       sentences → log_probability, token_log_probabilities, tokens, token_count
      next_token  prefix → words, probabilities
      generate    prefix, length, temperature, seed → text, words, word_count, ended
      route       sentences → tokens, and experts and gate values of each mixture
    Signatures of a translation model:
      translate   sentences (, language) → translations, scores, truncated
      route       sentences (, language) → source_tokens, target_tokens, experts, gate values
    serving_default is score or translate.

    A batch may have any number of sentences, also none. The outputs are those of the model at
    evaluation, and do not depend on the rest of the batch: gates draw no noise, Batchwise uses its
    learned thresholds, and an evaluation_capacity_factor is ignored. Sentences for a language model
    may have any length (beyond data.max_length they continue as in `tfmoe evaluate`); sentences to
    translate are truncated to 500 subwords.

    manifest.json in the version's folder has the config, software versions, the run's results, the
    signatures, and the SHA-256 of every file.

    --format onnx, litert and tfjs write functions on word or subword ids, the vocabulary as a file,
    and manifest.json, which describes both. The written files are compared with the model. They
    take no further options but --weights. docs/serving has small clients that call them.

    \b
    Functions of a language model:
      score        ids → log_probability, token_log_probabilities, token_count
      step         ids, positions, state_0, … → logits, next_state_0, …
    Functions of a translation model:
      encode       source → memory_0, …
      decode_step  ids, memory_0, …, state_0, … → log_probabilities, attention, next_state_0, …

    --format huggingface writes config.json, model.safetensors and vocabulary.txt, one word a line.
    There is no tokenizer of Hugging Face. It takes no further options but --weights.

    \b
    Examples:
      tfmoe export runs/language_model exported/language_model
      tfmoe export runs/language_model exported/small --half
      tfmoe export runs/language_model exported/smaller --int8
      tfmoe export runs/multilingual exported/multilingual --beam 8 --nbest 3
      tfmoe export runs/language_model exported/onnx --format onnx
      tfmoe export runs/mixtral exported/mixtral --format huggingface
    """
    options = {"top": top, "tokenization": tokenization, "beam": beam, "nbest": nbest}
    check_options(**options)
    with contextlib.redirect_stdout(sys.stderr):
        message = tasks.export_run(run, out, version, weights, half, int8, options, format)
    print(message)


def check_options(top, tokenization, beam, nbest):
    """Raises a ValueError for an option out of range, before TensorFlow is loaded."""
    arguments.check_range("--top", top, 1)
    arguments.check_beam(beam, nbest)
    if tokenization not in (None, "text", "words"):
        raise ValueError(f"--tokenization must be text or words, got {tokenization!r}")
