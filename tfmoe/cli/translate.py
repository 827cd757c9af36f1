"""`tfmoe translate`: lines in, translated lines out."""

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
            help="Text, one sentence a line, plain or .gz; else standard input.",
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
            help="Hypotheses that are followed; else as in the config, at least --nbest.",
        ),
    ] = None,
    nbest: Annotated[
        int, typer.Option(metavar="N", help="Translations of each line, with their scores.")
    ] = 1,
    weights: arguments.Weights = "best",
):
    """Translate text with a trained model.

    A line of output for each line of input, in order, as soon as a batch of lines
    (model.decoding.batch_sentences) is translated; an empty line stays empty. Reports go to
    standard error. With --nbest N there are up to N lines for each, best first: the number of the
    input line from 1, the score, the translation, separated by tabs.

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
