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
import math

import numpy as np


@dataclasses.dataclass(frozen=True)
class GrammarTables:
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
        """Draws tables. `corpora.Grammars` checks the arguments.

        Args:
            grammars: G, at least 1.
            symbols: V, at least 2.
            successors: F, from 1 to V.
            length: number of symbols in a sentence, at least 1.
            skew: the f-th successor has probability proportional to `exp(-skew·f)`. 0: all the
                same.
            seed: integer, at least 0.
        """
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
