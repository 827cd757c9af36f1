"""The n-gram baseline of the paper's Tables 7 and 8: interpolated Kneser-Ney.

Axes: N tokens of a text, sentence boundaries included; G n-grams of one order; H contexts of these
n-grams; V vocabulary.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tfmoe.models.word_predictor import START
from tfmoe.ops.arguments import positive

# Discounts of n-grams with counts of 1, 2, and 3 or more, for texts too small to estimate them.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


class Level(NamedTuple):
    """The n-grams of one order. The index of an n-gram is its position among the sorted keys.

    Attributes:
        keys: `[G]` int64, `h·V + w`, with h the index of the context, an n-gram of the next lower
            order, and w the word that follows it.
        weights: `[G]` float64, `(c(h, w) - D(c)) / c(h)`.
        backoff: `[H]` float64, `γ(h)`; 1 if nothing follows the context.
        discounts: `[3]` float64, D for counts of 1, 2, and 3 or more.
    """

    keys: np.ndarray
    weights: np.ndarray
    backoff: np.ndarray
    discounts: np.ndarray


class KneserNey:
    """Interpolated Kneser-Ney model with three discounts per order (Chen and Goodman 1998).

        p(w | h) = (c(h, w) - D(c(h, w))) / c(h) + γ(h) · p(w | h')
        γ(h) = Σ_w D(c(h, w)) / c(h)

    h' is h without its first word. For the empty context, p(w | h') is `1 / (V - 1)`, because
    `<S>` is never predicted. c(h, w) is the occurrence count of the longest n-grams, and of n-grams
    that begin with `<S>`, which no word precedes. For all other n-grams it is the number of
    distinct words that precede the n-gram. c(h) is the sum over w. The discounts of an order depend
    on n_k, the number of its n-grams with a count of k: `Y = n₁ / (n₁ + 2·n₂)` and
    `D(k) = k - (k + 1)·Y·n_{k+1} / n_k` for k = 1, 2, 3; larger counts use D(3). Nothing is pruned.

    A text is an array of ids: `<S> w₁ … wₙ </S>` for each sentence, concatenated. As in
    `LanguageModel`, `<S>` is context only, every word and `</S>` is predicted, and `<UNK>` is an
    ordinary word. Contexts do not cross sentence boundaries.

    Args:
        ids: `[N]` integers, the training text. Training needs about 150 bytes of memory per word.
        vocabulary_size: V.
        order: length of the longest n-grams, in words.
        progress: `None`, or a function called with an order and its n-gram count after each order
            is counted.

    Attributes:
        num_ngrams: n-gram counts of the orders 1, 2, …. Their sum is the parameter count in
            Table 7.

    Raises:
        ValueError: if `order` is below 1 or `ids` is not a valid text.

    Example:
        >>> text = np.array([1, 3, 4, 0, 1, 3, 3, 0])
        >>> model = KneserNey(text, vocabulary_size=5, order=2)
        >>> np.exp(np.mean(model.negative_log_likelihood([1, 3, 0])))
        np.float64(2.14...)
    """

    def __init__(
        self,
        ids: np.ndarray,
        vocabulary_size: int,
        order: int = 5,
        progress: Callable[[int, int], None] | None = None,
    ):
        self.vocabulary_size = positive("vocabulary_size", vocabulary_size)
        self.order = positive("order", order)
        ids, position = self._text(ids)
        index = np.zeros(len(ids), np.int64)
        all_keys: list[np.ndarray] = []
        all_counts: list[np.ndarray] = []
        for context_length in range(self.order):
            keys, first, inverse, counts = self._ngrams(ids, position, index, context_length)
            if context_length:
                num_preceding = np.bincount(index[first], minlength=len(all_keys[-1]))
                all_counts[-1] = np.where(num_preceding, num_preceding, all_counts[-1])
            else:
                counts[keys == START] = 0
            index = np.full(len(ids), -1)
            index[position >= context_length] = inverse
            all_keys.append(keys)
            all_counts.append(counts)
            if progress is not None:
                progress(context_length + 1, len(keys))
        num_contexts = [1, *map(len, all_keys)]
        self.levels = list(map(self._level, all_keys, all_counts, num_contexts))

    @property
    def num_ngrams(self) -> list[int]:
        return [len(level.keys) for level in self.levels]

    def _text(self, ids):
        """The ids as int64, and the position of each in its sentence, 0 for `<S>`."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu" or ids[0] != START:
            raise ValueError(
                f"ids must be a vector of integers that starts with {START}, the id of <S>, got "
                f"{ids.dtype} {list(ids.shape)}: {np.array2string(ids, threshold=6)}"
            )
        low, high = ids.min(), ids.max()
        if low < 0 or high >= self.vocabulary_size:
            raise ValueError(
                f"ids must be from 0 to {self.vocabulary_size - 1}, got {low if low < 0 else high}"
            )
        offsets = np.arange(len(ids))
        return ids.astype(np.int64), offsets - np.maximum.accumulate(offsets * (ids == START))

    def _ngrams(self, ids, position, index, context_length):
        """The distinct n-grams with a given context length: `np.unique` of their keys.

        Args:
            ids, position: the text, as `_text` returns it.
            index: `[N]`, index of the n-gram of the next lower order that ends at each token.
            context_length: words before the last word of an n-gram.

        Returns:
            Keys, offset in the text of the first occurrence, index of the key at each token with
            enough context, and occurrence counts.
        """
        offsets = np.flatnonzero(position >= context_length)
        context = index[offsets - 1] if context_length else 0
        keys, first, inverse, counts = np.unique(
            context * self.vocabulary_size + ids[offsets],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        return keys, offsets[first], inverse, counts

    def _level(self, keys, counts, num_contexts):
        """The `Level` of n-grams `keys` with `counts`, whose contexts are H n-grams."""
        context = keys // self.vocabulary_size
        discounts = estimate_discounts(counts)
        discount = np.array([0.0, *discounts])[np.minimum(counts, 3)]
        total = np.bincount(context, counts, num_contexts)
        discounted = np.bincount(context, discount, num_contexts)
        backoff = np.divide(discounted, total, out=np.ones(num_contexts), where=total > 0)
        return Level(keys, (counts - discount) / total[context], backoff, discounts)

    def negative_log_likelihood(self, ids: np.ndarray) -> np.ndarray:
        """`-log p(word)` of every predicted word of a text.

        Args:
            ids: `[M]` integers, a text to evaluate.

        Returns:
            `[T]` float64, in nats, in reading order, one value for each token except `<S>`.

        Raises:
            ValueError: if `ids` is not a valid text.
        """
        ids, position = self._text(ids)
        probability = np.full(len(ids), 1 / (self.vocabulary_size - 1))
        index = np.zeros(len(ids), np.int64)
        for context_length, level in enumerate(self.levels):
            if not len(level.keys):  # all sentences of the training text are shorter
                break
            context = np.roll(index, 1) if context_length else index
            context_seen = (position >= context_length) & (context >= 0)
            key = context * self.vocabulary_size + ids
            candidate = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            seen = context_seen & (level.keys[candidate] == key)
            probability *= np.where(context_seen, level.backoff[context], 1)
            probability += np.where(seen, level.weights[candidate], 0)
            index = np.where(seen, candidate, -1)
        return -np.log(probability[position > 0])


def estimate_discounts(counts):
    """The discounts of the n-grams of one order, see `KneserNey`.

    Args:
        counts: `[G]` integers.

    Returns:
        `[3]` float64. `FALLBACK_DISCOUNTS` if one of the counts 1 to 3 does not occur, or if a
        discount would be negative.
    """
    n = np.array([np.count_nonzero(counts == count) for count in range(1, 5)])
    if n[:3].min() == 0:
        return np.array(FALLBACK_DISCOUNTS)
    k = np.arange(1, 4)
    discounts = k - (k + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:-1]
    return discounts if discounts.min() >= 0 else np.array(FALLBACK_DISCOUNTS)
