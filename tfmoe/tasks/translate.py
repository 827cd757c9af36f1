"""Translates lines of text with a trained run."""

import itertools
import os
import sys
import time
from collections.abc import Iterable
from typing import TextIO

from tfmoe.data_pipelines import Subwords
from tfmoe.data_pipelines.reading import BYTE_ORDER_MARK
from tfmoe.serving.translator import Translator
from tfmoe.tasks.runs import load_run
from tfmoe.tasks.translation import build_translator

SECONDS_BETWEEN_REPORTS = 5


def translator_of(
    path: str | os.PathLike,
    weights: str = "best",
    language: str | None = None,
    beam_size: int | None = None,
    num_best: int = 1,
) -> tuple[Translator, int]:
    """Loads the translator of a run.

    Args:
        path: the run's folder.
        weights: `"best"` or `"last"`.
        language: the target language of a multilingual model; `None` for other models.
        beam_size: number of hypotheses kept per step; `None` for the config's beam size, or for
            `num_best` if that is larger.
        num_best: number of translations per line.

    Returns:
        The `Translator`, and the id of the target language (0 with one direction only).

    Raises:
        FileNotFoundError: if the folder has no run.
        ValueError: if the run is no translation model, or has no such target language.
    """
    config, subwords, model = load_run(path, weights)
    if not isinstance(subwords, Subwords):
        raise ValueError(
            f"{path} is a run of a {config.model.name} model, which does not translate"
        )
    beam_size = beam_size or max(num_best, config.model.decoding.beam_size)
    translator = build_translator(config, subwords, model, beam_size=beam_size, num_best=num_best)
    language_id = translator.language_id(language)
    if language is not None and not translator.languages:
        raise ValueError(f"--to {language}: {path} translates in one direction only; omit --to")
    return translator, language_id


def plain_sentence(line):
    """A line (bytes) as training reads it: without byte order mark and `\\r`, with single
    spaces.
    """
    return b" ".join(line.replace(b"\r", b"").removeprefix(BYTE_ORDER_MARK).split())


def translate_lines(
    lines: Iterable[bytes],
    translator: Translator,
    language_id: int,
    nbest: int,
    out: TextIO,
) -> None:
    """Translates lines, one batch at a time. Reports progress on standard error every few seconds.

    Args:
        lines: lines in UTF-8; invalid bytes become an unknown subword.
        translator: a `Translator`.
        language_id: id of the target language.
        nbest: number of translations per line. If more than 1, the output has the line's number
            and the score of each translation.
        out: text file for the output.
    """
    done, last_report = 0, time.monotonic()
    while batch := list(itertools.islice(lines, translator.batch_sentences)):
        sentences = [plain_sentence(line) for line in batch]
        results = (tensor.numpy() for tensor in translator.translate(sentences, language_id))
        for line, (best, scores) in enumerate(zip(*results, strict=True), done + 1):
            texts = [text.decode("utf-8", errors="replace") for text in best]
            if nbest == 1:
                out.write(texts[0] + "\n")
                continue
            for text, score in zip(texts, scores, strict=True):
                if score > float("-inf"):
                    out.write(f"{line}\t{score:.4f}\t{text}\n")
        out.flush()
        done += len(batch)
        if time.monotonic() - last_report > SECONDS_BETWEEN_REPORTS:
            last_report = time.monotonic()
            print(f"{done:,} lines translated", file=sys.stderr)
