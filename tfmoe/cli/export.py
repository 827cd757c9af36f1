"""`tfmoe export`: a trained model as a SavedModel."""

import contextlib
import pathlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments

Out = Annotated[
    pathlib.Path,
    typer.Argument(metavar="OUT", help="A folder of numbered versions; made if missing."),
]
Version = Annotated[
    int | None,
    typer.Option(metavar="N", help="The version to write; else the one after the last."),
]
Half = Annotated[
    bool,
    typer.Option(
        "--half",
        help="Matrices in bfloat16, half the size; measures on the run's test text what that "
        "changes. Gates and biases stay float32.",
    ),
]
Tokenization = Annotated[
    str | None,
    typer.Option(
        metavar="KIND",
        help="Of a language model: text (running text, which is put in lower case and split as "
        "the embedded text was; the default for it) or words (separated by white space; the "
        "default for all others).",
    ),
]
Top = Annotated[
    int | None,
    typer.Option(metavar="N", help="Words that next_token gives; 10 by default."),
]
Beam = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Hypotheses that translate follows; else as in the config, at least --nbest.",
    ),
]
NBest = Annotated[
    int | None,
    typer.Option(metavar="N", help="Translations of each sentence; 1 by default."),
]


def export(
    run: arguments.Run,
    out: Out,
    version: Version = None,
    weights: arguments.Weights = "best",
    half: Half = False,
    tokenization: Tokenization = None,
    top: Top = None,
    beam: Beam = None,
    nbest: NBest = None,
):
    """Write a trained model as a SavedModel that takes strings.

    It is written to OUT/1, OUT/2, … as TensorFlow Serving reads them; an existing version is never
    overwritten, and one that is there is complete. It needs TensorFlow, and tensorflow-text for
    running text and translation, but nothing of tfmoe: vocabulary and tokenization are inside.

    \b
    Signatures of a language model (each has the outputs' types and shapes in manifest.json):
      score       sentences → log_probability, token_log_probabilities, tokens, token_count
      next_token  prefix → words, probabilities
      generate    prefix, length, temperature, seed → text, words, word_count, ended
      route       sentences → tokens, and experts and gate values of each mixture
    Of a translation model:
      translate   sentences (, language) → translations, scores, truncated
      route       sentences (, language) → source_tokens, target_tokens, experts, gate values
    serving_default is score or translate.

    Any number of sentences can be given, none too. Answers are those of the model at evaluation,
    and do not depend on the rest of the batch: gates draw no noise, Batchwise takes its learned
    thresholds, and an evaluation_capacity_factor is set aside. Sentences for a language model may
    have any length (beyond data.max_length they go on as in `tfmoe evaluate`); of a sentence to
    translate 500 subwords are read.

    manifest.json beside the model has the config, versions, the run's measured results, the
    signatures, and the SHA-256 of every file.

    \b
    Examples:
      tfmoe export runs/language_model exported/language_model
      tfmoe export runs/language_model exported/small --half
      tfmoe export runs/multilingual exported/multilingual --beam 8 --nbest 3
    """
    options = {"top": top, "tokenization": tokenization, "beam": beam, "nbest": nbest}
    check_options(**options)
    with contextlib.redirect_stdout(sys.stderr):
        done = tasks.export_run(run, out, version, weights, half, options)
    print(done)


def check_options(top, tokenization, beam, nbest):
    """Raises a ValueError for an option out of its range, before TensorFlow is loaded."""
    arguments.check_range("--top", top, 1)
    arguments.check_beam(beam, nbest)
    if tokenization not in (None, "text", "words"):
        raise ValueError(f"--tokenization must be text or words, got {tokenization!r}")
