"""`tfmoe translate`: lines in, translated lines out."""

import contextlib
import itertools
import os
import pathlib
import sys
import time
from typing import Annotated

import typer

from tfmoe.cli import arguments
from tfmoe.tasks.tensorflow_import import import_tensorflow

SECONDS_BETWEEN_REPORTS = 5


def translate(
    run: Annotated[
        pathlib.Path,
        typer.Argument(metavar="RUN", help="The folder of a run of a translation model."),
    ],
    input_: Annotated[
        pathlib.Path | None,
        typer.Option(
            "--input", metavar="FILE", help="Text, one sentence a line; else standard input."
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
    if beam is not None and beam < nbest:
        raise ValueError(f"--beam must be at least --nbest {nbest}, got {beam}")
    if nbest < 1:
        raise ValueError(f"--nbest must be 1 or more, got {nbest}")
    if input_ is not None and not input_.is_file():
        raise FileNotFoundError(f"--input {input_}: no such file")
    import_tensorflow()
    from tfmoe.tasks import build_translator, load_run

    with contextlib.redirect_stdout(sys.stderr):
        config, subwords, model = load_run(run, weights)
        if config.model.name != "translation":
            raise ValueError(f"{run} is a run of a {config.model.name}, which does not translate")
        beam = beam or max(nbest, config.model.decoding.beam_size)
        translator = build_translator(config, subwords, model, beam_size=beam, num_best=nbest)
        language_id = translator.language_id(to)
    if to is not None and not translator.languages:
        raise ValueError(f"--to {to}: {run} translates in one direction only; leave --to out")
    with contextlib.ExitStack() as stack:
        lines = sys.stdin.buffer if input_ is None else stack.enter_context(open(input_, "rb"))
        try:
            translate_lines(lines, translator, language_id, nbest, sys.stdout)
        except BrokenPipeError:  # whoever read our output has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def plain_sentence(line):
    """A line as training reads it: no byte order mark, no `\\r`, single spaces. Bytes."""
    return b" ".join(line.removeprefix(b"\xef\xbb\xbf").replace(b"\r", b"").split())


def translate_lines(lines, translator, language_id, nbest, out):
    """Translates lines, a batch at a time, and reports how far it is where that takes long.

    Args:
        lines: iterable of bytes, UTF-8; what is not becomes an unknown subword.
        translator: a `Translator`.
        language_id: of the target language.
        nbest: as of the command.
        out: text file to write to.
    """
    done, reported = 0, time.monotonic()
    while batch := list(itertools.islice(lines, translator.batch_sentences)):
        sentences = [plain_sentence(line) for line in batch]
        found, scores = (each.numpy() for each in translator.translate(sentences, language_id))
        for number, (best, score) in enumerate(zip(found, scores, strict=True), done + 1):
            texts = [text.decode("utf-8", errors="replace") for text in best]
            if nbest == 1:
                out.write(texts[0] + "\n")
                continue
            for text, value in zip(texts, score, strict=True):
                if value > float("-inf"):
                    out.write(f"{number}\t{value:.4f}\t{text}\n")
        out.flush()
        done += len(batch)
        if time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
            reported = time.monotonic()
            print(f"{done:,} lines translated", file=sys.stderr)
