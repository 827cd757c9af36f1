"""The n-gram model that the paper's Tables 7 and 8 begin with: interpolated Kneser-Ney.

Axes: N words of a text, with the boundaries of its sentences; G n-grams of one order; H their
contexts; V vocabulary.
"""

from typing import NamedTuple

import numpy as np

from tfmoe.models.word_predictor import START
from tfmoe.ops.arguments import positive

# Of n-grams that occur once, twice, more often, where a text is too small to estimate them.
FALLBACK_DISCOUNTS = (0.5, 1.0, 1.5)


class Level(NamedTuple):
    """The n-grams of one order. An n-gram's index is its place among the sorted keys.

    Attributes:
        keys: `[G]` int64, `h·V + w` of the context with index h, an n-gram of the order below, and
            the word w that follows it.
        weights: `[G]` float64, `(c(h, w) - D(c)) / c(h)`.
        backoff: `[H]` float64, `γ(h)`; 1 where nothing follows the context.
        discounts: `[3]` float64, D of counts of 1, 2, and 3 or more.
    """

    keys: np.ndarray
    weights: np.ndarray
    backoff: np.ndarray
    discounts: np.ndarray


class KneserNey:
    """Interpolated Kneser-Ney with three discounts for each order (Chen and Goodman 1998).

        p(w | h) = (c(h, w) - D(c(h, w))) / c(h) + γ(h) · p(w | h')
        γ(h) = Σ_w D(c(h, w)) / c(h)

    where h' is h without its first word, and the shortest context's p(w | h') is `1 / (V - 1)`:
    `<S>` is never predicted. c counts occurrences for the longest n-grams, and for those that begin
    with `<S>`, which nothing precedes; for all others it counts the different words that precede
    the n-gram. c(h) is the sum over w. The discounts of an order follow from how many of its
    n-grams have a count of 1, 2, 3, 4: `Y = n₁ / (n₁ + 2·n₂)`, `D(k) = k - (k + 1)·Y·n_{k+1} / n_k`
    for k = 1, 2, and k = 3 for all larger counts. Nothing is pruned.

    A text is an array of ids, `<S> w₁ … wₙ </S>` of one sentence after another. As in a
    `LanguageModel`, `<S>` is only context, every word and `</S>` is predicted, and `<UNK>` is a
    word like others. No context reaches beyond its sentence.

    Args:
        ids: `[N]` integers, the training text. It takes about 150 bytes a word.
        vocabulary_size: V.
        order: words of the longest n-grams.
        progress: `None`, or a function of an order and its number of n-grams, called when they are
            counted.

    Attributes:
        num_ngrams: of each order, from 1 on. Their sum is what Table 7 gives as parameters.

    Raises:
        ValueError: for an order under 1, or ids that are no such text.

    Example:
        >>> text = np.array([1, 3, 4, 0, 1, 3, 3, 0])
        >>> model = KneserNey(text, vocabulary_size=5, order=2)
        >>> np.exp(np.mean(model.negative_log_likelihood([1, 3, 0])))
        np.float64(2.14...)
    """

    def __init__(self, ids, vocabulary_size, order=5, progress=None):
        self.vocabulary_size = positive("vocabulary_size", vocabulary_size)
        self.order = positive("order", order)
        ids, position = self._text(ids)
        index, all_keys, all_counts = np.zeros(len(ids), np.int64), [], []
        for length in range(self.order):  # of the context
            keys, first, inverse, counts = self._ngrams(ids, position, index, length)
            if length:
                preceded = np.bincount(index[first], minlength=len(all_keys[-1]))
                all_counts[-1] = np.where(preceded, preceded, all_counts[-1])
            else:
                counts[keys == START] = 0
            index = np.full(len(ids), -1)
            index[position >= length] = inverse
            all_keys.append(keys)
            all_counts.append(counts)
            if progress is not None:
                progress(length + 1, len(keys))
        contexts = [1, *map(len, all_keys)]
        self.levels = list(map(self._level, all_keys, all_counts, contexts))

    @property
    def num_ngrams(self):
        return [len(level.keys) for level in self.levels]

    def _text(self, ids):
        """The ids of a text as int64, and the place of each in its sentence, 0 for `<S>`."""
        ids = np.asarray(ids)
        if ids.ndim != 1 or not len(ids) or ids.dtype.kind not in "iu" or ids[0] != START:
            raise ValueError(
                f"ids must be a vector of integers that begins with {START}, the id of <S>, got "
                f"{ids.dtype} {list(ids.shape)}: {np.array2string(ids, threshold=6)}"
            )
        low, high = ids.min(), ids.max()
        if low < 0 or high >= self.vocabulary_size:
            raise ValueError(
                f"ids must be from 0 to {self.vocabulary_size - 1}, got {low if low < 0 else high}"
            )
        places = np.arange(len(ids))
        return ids.astype(np.int64), places - np.maximum.accumulate(places * (ids == START))

    def _ngrams(self, ids, position, index, length):
        """What `np.unique` gives of the keys of the n-grams that end at each place, where the
        sentence has as many words before it.

        Args:
            ids, position: of the text.
            index: `[N]`, of the n-gram of the order below that ends at each place.
            length: of the context.
        """
        places = np.flatnonzero(position >= length)
        context = index[places - 1] if length else 0
        keys, first, inverse, counts = np.unique(
            context * self.vocabulary_size + ids[places],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        return keys, places[first], inverse, counts

    def _level(self, keys, counts, contexts):
        """The `Level` of n-grams with their counts, and the number H of their contexts."""
        context = keys // self.vocabulary_size
        discounts = discounts_of(counts)
        discount = np.array([0.0, *discounts])[np.minimum(counts, 3)]
        total = np.bincount(context, counts, contexts)
        held_back = np.bincount(context, discount, contexts)
        backoff = np.divide(held_back, total, out=np.ones(contexts), where=total > 0)
        return Level(keys, (counts - discount) / total[context], backoff, discounts)

    def negative_log_likelihood(self, ids):
        """`-log p(word)` of every word of a text that is predicted.

        Args:
            ids: `[M]` integers, another text.

        Returns:
            `[T]` float64, in nats, in reading order: without those of `<S>`.
        """
        ids, position = self._text(ids)
        probability = np.full(len(ids), 1 / (self.vocabulary_size - 1))
        index = np.zeros(len(ids), np.int64)
        for length, level in enumerate(self.levels):
            if not len(level.keys):  # all sentences of the training text are shorter
                break
            context = np.roll(index, 1) if length else index
            known = (position >= length) & (context >= 0)
            key = context * self.vocabulary_size + ids
            found = np.minimum(np.searchsorted(level.keys, key), len(level.keys) - 1)
            seen = known & (level.keys[found] == key)
            probability *= np.where(known, level.backoff[context], 1)
            probability += np.where(seen, level.weights[found], 0)
            index = np.where(seen, found, -1)
        return -np.log(probability[position > 0])


def discounts_of(counts):
    """The discounts of n-grams of one order, `[3]`, see `KneserNey`; `FALLBACK_DISCOUNTS` if no
    n-gram has one of the counts 1 to 3, or a discount is negative.

    Args:
        counts: `[G]` integers.
    """
    n = np.array([np.count_nonzero(counts == count) for count in range(1, 5)])
    if n[:3].min() == 0:
        return np.array(FALLBACK_DISCOUNTS)
    k = np.arange(1, 4)
    discounts = k - (k + 1) * n[0] / (n[0] + 2 * n[1]) * n[1:] / n[:-1]
    return discounts if discounts.min() >= 0 else np.array(FALLBACK_DISCOUNTS)
