"""Sentences of a synthetic language, see `grammar_tables`."""

import dataclasses
import math
import pathlib

import numpy as np

from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.data_pipelines.corpora import written
from tfmoe.data_pipelines.corpora.corpus import LanguageCorpus, below, not_a_seed
from tfmoe.data_pipelines.grammar_tables import GrammarTables
from tfmoe.data_pipelines.splits import Splits

FORMAT = 1  # to be raised when the text of the same settings changes
MOST_PAIRS = 2**26  # of symbols, of all grammars: a random order of them is drawn at once
SENTENCES_AT_A_TIME = 50_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grammars(LanguageCorpus):
    """A synthetic language of known entropy.

    Its directory gets `train.txt`, `valid.txt` and `test.txt`, and `corpus.json` with the settings
    and the exact entropy: `entropy` in nats for each prediction and `perplexity`, its exponential.

    Args:
        grammars: number of latent grammars.
        symbols: words that all grammars share, at least 2.
        successors: words that can follow each word in a grammar, at most `symbols`.
        length: symbols in a sentence.
        skew: how unlike the successors' probabilities are; 0 for equal.
        train_sentences, valid_sentences, test_sentences: numbers of sentences.
        seed: of the language and its sentences; the training has its own.
    """

    generated = True

    grammars: int = 256
    symbols: int = 64
    successors: int = 4
    length: int = 29
    skew: float = 1.0
    train_sentences: int = 60_000
    valid_sentences: int = 1_000
    test_sentences: int = 2_000
    seed: int = 0

    def problems(self):
        yield from below(1, grammars=self.grammars)
        yield from below(2, symbols=self.symbols)
        yield from below(1, successors=self.successors, length=self.length)
        yield from below(0, skew=self.skew)
        yield from below(1, **{f"{part}_sentences": n for part, n in self._sentences.items()})
        yield from not_a_seed(self.seed)
        if self.symbols**2 > MOST_PAIRS:
            yield f"symbols must be at most {math.isqrt(MOST_PAIRS)}, got {self.symbols}"
        elif self.grammars * self.symbols**2 > MOST_PAIRS:
            yield (
                f"grammars must be at most {MOST_PAIRS // self.symbols**2} for "
                f"symbols={self.symbols} (grammars · symbols² at most {MOST_PAIRS}), got "
                f"{self.grammars}"
            )
        if self.successors > self.symbols:
            yield f"successors must be at most symbols={self.symbols}, got {self.successors}"

    @property
    def _sentences(self):
        return {part: getattr(self, f"{part}_sentences") for part in written.PARTS}

    def tables(self):
        """Returns the `GrammarTables` of the language."""
        return GrammarTables.random(**self._language)

    @property
    def _language(self):
        names = ("grammars", "symbols", "successors", "length", "skew", "seed")
        return {name: getattr(self, name) for name in names}

    def splits(self, directory):
        directory, tables = pathlib.Path(directory), self.tables()
        description = {
            "made_from": {
                "format": FORMAT,
                **self._language,
                "sentences": self._sentences,
                "numpy": np.__version__,
            },
            "predictions_per_sentence": tables.predictions,
            "entropy": tables.entropy,
            "perplexity": tables.perplexity,
        }
        files = {part: directory / f"{part}.txt" for part in written.PARTS}
        if not written.is_complete(directory, description, files.values()):
            written.begin(directory)
            for index, (part, count) in enumerate(self._sentences.items(), 1):
                generator = np.random.default_rng([self.seed, index])
                _write(files[part], tables, count, generator)
            written.finish(directory, description)
        return Splits(*([str(file)] for file in files.values()))


def _write(path, tables, count, generator):
    """Writes sentences that are drawn from `GrammarTables`."""
    with atomic_write(path) as file:
        for begin in range(0, count, SENTENCES_AT_A_TIME):
            sentences = tables.sample(min(SENTENCES_AT_A_TIME, count - begin), generator)
            file.writelines(line + "\n" for line in tables.lines(*sentences))
