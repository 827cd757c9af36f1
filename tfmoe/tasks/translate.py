"""Translating lines of text with a trained run."""

import itertools
import sys
import time

from tfmoe.data_pipelines.reading import BYTE_ORDER_MARK
from tfmoe.tasks.runs import load_run
from tfmoe.tasks.translation import build_translator

SECONDS_BETWEEN_REPORTS = 5


def translator_of(path, weights="best", language=None, beam_size=None, num_best=1):
    """The translator of a run, and the id of the language to translate into.

    Args:
        path: the run's folder.
        weights: `"best"` or `"last"`.
        language: the target language of a multilingual model, else `None`.
        beam_size: hypotheses that are followed; `None` for the config's, at least `num_best`.
        num_best: translations of each line.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if the run does not translate, or not into the language.
    """
    config, subwords, model = load_run(path, weights)
    if not hasattr(config.model, "decoding"):
        raise ValueError(f"{path} is a run of a {config.model.name}, which does not translate")
    beam_size = beam_size or max(num_best, config.model.decoding.beam_size)
    translator = build_translator(config, subwords, model, beam_size=beam_size, num_best=num_best)
    language_id = translator.language_id(language)
    if language is not None and not translator.languages:
        raise ValueError(
            f"--to {language}: {path} translates in one direction only; leave --to out"
        )
    return translator, language_id


def plain_sentence(line):
    """A line as training reads it: no byte order mark, no `\\r`, single spaces. Bytes."""
    return b" ".join(line.replace(b"\r", b"").removeprefix(BYTE_ORDER_MARK).split())


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
