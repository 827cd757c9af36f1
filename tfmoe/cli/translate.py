"""`tfmoe translate`: translates lines of text."""

import contextlib
import gzip
import pathlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments


def translate(
    run: Annotated[
        pathlib.Path,
        typer.Argument(metavar="RUN", help="The folder of a run of a translation model."),
    ],
    input_: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--input",
            metavar="FILE",
            help="Text, one sentence per line, plain or .gz. Default: standard input.",
        ),
    ] = None,
    to: Annotated[
        str | None,
        typer.Option(metavar="LANG", help="Target language of a multilingual model, such as fr."),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Beam size. Default: the config's, or --nbest if that is larger.",
        ),
    ] = None,
    nbest: Annotated[
        int, typer.Option(metavar="N", help="Number of translations per line, with their scores.")
    ] = 1,
    weights: arguments.Weights = "best",
):
    """Translate text with a trained model.

    Prints one line per input line, in order, after each batch of model.decoding.batch_sentences
    lines. An empty line stays empty. Progress is printed on standard error. With --nbest N, prints
    up to N lines per input line, best first: the number of the input line (from 1), the score and
    the translation, separated by tabs.

    \b
    Examples:
      echo "Monday, May 4, 2020" | tfmoe translate runs/translation
      tfmoe translate runs/translation --input my/text.en > my/text.fr
      tfmoe translate runs/multilingual --to ja --beam 8 --nbest 3 < my/text.en
    """
    arguments.check_beam(beam, nbest)
    if input_ is not None and not input_.is_file():
        raise FileNotFoundError(f"--input {input_}: no such file")
    with contextlib.redirect_stdout(sys.stderr):
        translator, language_id = tasks.translator_of(run, weights, to, beam, nbest)
    with contextlib.ExitStack() as stack:
        lines = sys.stdin.buffer
        if input_ is not None:
            opened = gzip.open if input_.suffix == ".gz" else open
            lines = stack.enter_context(opened(input_, "rb"))
        tasks.translate_lines(lines, translator, language_id, nbest, sys.stdout)
