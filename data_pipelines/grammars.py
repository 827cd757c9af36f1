"""A synthetic language whose entropy is known: many grammars over the same words.

A sentence begins with two marker words which together name one of G grammars. Then follow symbols
s1 … sn of an alphabet that all grammars share, drawn from a Markov chain: each grammar has, for
each symbol, a few successors of its own with skewed probabilities, in the order of a random
permutation. Without the markers the next symbol could be almost anything; with them it is nearly
known, provided that the table of that grammar has been learned. There are G·V·F table entries (V
symbols, F successors), more than a small dense model can hold.

All sentences have the same number of symbols, so that the end of a sentence can be known.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np

from data_pipelines.atomic_write import atomic_write
from data_pipelines.splits import Splits

FORMAT = 1
SENTENCES_AT_A_TIME = 50_000


@dataclasses.dataclass(frozen=True)
class Grammars:
    """The true model: transition tables of all grammars.

    Args:
        markers: int32 `[G, 2]`, the two marker words of each grammar, from 0 to M - 1, with `M =
            ceil(sqrt(G))`.
        successors: int32 `[G, V, F]`, the symbols that can follow each symbol; different ones in
            each row.
        probabilities: float64 `[F]`, of the successors, in falling order; the same in all rows.
        length: number of symbols in a sentence. The first is uniform over all V.
    """

    markers: np.ndarray
    successors: np.ndarray
    probabilities: np.ndarray
    length: int

    @classmethod
    def random(cls, *, grammars, symbols, successors, length, skew=1.0, seed=0):
        """Draws tables.

        Args:
            grammars: G, at least 1.
            symbols: V, at least 2.
            successors: F, from 1 to V.
            length: number of symbols in a sentence, at least 1.
            skew: the f-th successor has probability proportional to `exp(-skew·f)`. 0: all the
                same.
            seed: integer.

        Raises:
            ValueError: if an argument is out of its range.
        """
        for name, value, least in (
            ("grammars", grammars, 1), ("symbols", symbols, 2), ("successors", successors, 1),
            ("length", length, 1), ("skew", skew, 0), ("seed", seed, 0),
        ):  # fmt: skip
            if value < least:
                raise ValueError(f"{name} must be at least {least}; it is {value}")
        if successors > symbols:
            raise ValueError(f"successors must be at most symbols = {symbols}; it is {successors}")
        generator = np.random.default_rng([seed, 0])
        marker_words = math.isqrt(grammars - 1) + 1
        markers = np.stack(np.divmod(np.arange(grammars), marker_words), 1)
        order = generator.random((grammars, symbols, symbols), dtype=np.float32).argsort(-1)
        probabilities = np.exp(-skew * np.arange(successors))
        return cls(
            markers.astype(np.int32),
            order[..., :successors].astype(np.int32),
            probabilities / probabilities.sum(),
            length,
        )

    @property
    def sentence_entropy(self):
        """Entropy of a sentence in nats: log G + log V + (length - 1)·H(successor). The end of it
        is certain.
        """
        grammars, symbols, _ = self.successors.shape
        p = self.probabilities
        return (
            math.log(grammars)
            + math.log(symbols)
            - (self.length - 1) * float((p * np.log(p)).sum())
        )

    @property
    def predictions(self):
        """Predictions in a sentence: two markers, the symbols and `</S>`."""
        return self.length + 3

    @property
    def entropy(self):
        """Entropy rate in nats for each prediction, markers and `</S>` included."""
        return self.sentence_entropy / self.predictions

    @property
    def perplexity(self):
        """The lowest perplexity that a model can reach: `exp(entropy)`."""
        return math.exp(self.entropy)

    def sample(self, count, generator):
        """Draws sentences.

        Args:
            count: N, number of sentences.
            generator: `numpy.random.Generator`.

        Returns:
            `(grammars, symbols)`: int `[N]` and int32 `[N, length]`.
        """
        grammars, symbols, _ = self.successors.shape
        grammar = generator.integers(grammars, size=count)
        choice = np.searchsorted(
            self.probabilities.cumsum()[:-1], generator.random((count, self.length)), "right"
        )
        chain = np.empty((count, self.length), np.int32)
        chain[:, 0] = generator.integers(symbols, size=count)
        for step in range(1, self.length):
            chain[:, step] = self.successors[grammar, chain[:, step - 1], choice[:, step]]
        return grammar, chain

    def log_likelihood(self, grammars, symbols):
        """Returns the natural logarithm of the probability of each sentence, float64 `[N]`; `-inf`
        if impossible.

        Args:
            grammars: int `[N]`.
            symbols: int `[N, length]`.
        """
        count, alphabet, _ = self.successors.shape
        options = self.successors[grammars[:, None], symbols[:, :-1]]  # [N, length - 1, F]
        chosen = options == symbols[:, 1:, None]
        with np.errstate(divide="ignore"):
            steps = np.log((chosen * self.probabilities).sum(-1))
        return steps.sum(-1) - math.log(count) - math.log(alphabet)

    def lines(self, grammars, symbols):
        """Returns sentences as text: markers `a0 b3`, symbols `w0 w17 …`."""
        _, alphabet, _ = self.successors.shape
        width = int(self.markers.max()) + 1
        words = (
            [f"a{i}" for i in range(width)]
            + [f"b{i}" for i in range(width)]
            + [f"w{i}" for i in range(alphabet)]
        )
        ids = np.concatenate([self.markers[grammars] + [0, width], symbols + 2 * width], 1)
        return [" ".join(line) for line in np.array(words, object)[ids].tolist()]


def write_grammars(
    directory,
    *,
    grammars=256,
    symbols=64,
    successors=4,
    length=29,
    skew=1.0,
    train_sentences=60_000,
    valid_sentences=1_000,
    test_sentences=2_000,
    seed=0,
):
    """Writes a corpus of random grammars, unless the directory already has it.

    The directory gets `train.txt`, `valid.txt` and `test.txt`, and `corpus.json` with the
    parameters and the exact
    entropy: `entropy` in nats for each prediction and `perplexity`, its exponential.

    Args:
        directory: where to write; made if missing.
        grammars, symbols, successors, length, skew: as for `Grammars.random`.
        train_sentences, valid_sentences, test_sentences: numbers of sentences, at least 1.
        seed: integer, for tables and sentences.

    Returns:
        `Splits` of one file each.

    Raises:
        ValueError: if an argument is out of its range.
    """
    counts = {"train": train_sentences, "valid": valid_sentences, "test": test_sentences}
    for part, count in counts.items():
        if count < 1:
            raise ValueError(f"{part}_sentences must be at least 1; it is {count}")
    language = dict(
        grammars=grammars,
        symbols=symbols,
        successors=successors,
        length=length,
        skew=skew,
        seed=seed,
    )
    model = Grammars.random(**language)
    corpus = {
        "made_from": {"format": FORMAT, **language, "sentences": counts, "numpy": np.__version__},
        "predictions_per_sentence": model.predictions,
        "entropy": model.entropy,
        "perplexity": model.perplexity,
    }
    directory = pathlib.Path(directory)
    splits = Splits(*([str(directory / f"{part}.txt")] for part in counts))
    if _is_complete(directory, corpus):
        return splits
    (directory / "corpus.json").unlink(missing_ok=True)
    for index, (part, count) in enumerate(counts.items(), 1):
        generator = np.random.default_rng([seed, index])
        with atomic_write(directory / f"{part}.txt") as file:
            for begin in range(0, count, SENTENCES_AT_A_TIME):
                sentences = model.sample(min(SENTENCES_AT_A_TIME, count - begin), generator)
                file.writelines(line + "\n" for line in model.lines(*sentences))
    with atomic_write(directory / "corpus.json") as file:
        json.dump(corpus, file, indent=1)
    return splits


def _is_complete(directory, corpus):
    """Whether the directory holds this corpus."""
    try:
        found = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return found == corpus and all(
        (directory / f"{part}.txt").is_file() for part in corpus["made_from"]["sentences"]
    )
