import collections

import numpy as np
import pytest

from tfmoe.models import KneserNey
from tfmoe.models.kneser_ney import FALLBACK_DISCOUNTS, estimate_discounts

END, START, UNKNOWN = 0, 1, 2


def text(*sentences):
    """Converts sentences of one-letter words, `"ab c"`, to ids: `<S> a b c </S>`, with a = 3."""
    ids = []
    for sentence in sentences:
        words = [ord(word) - ord("a") + 3 for word in sentence.replace(" ", "")]
        ids += [START, *words, END]
    return np.array(ids)


def probability(model, *ids):
    """`p(last id | all ids before it)`."""
    return np.exp(-model.negative_log_likelihood(ids)[-1])


def test_by_hand():
    model = KneserNey(text("ab", "aa"), vocabulary_size=5, order=2)
    assert model.num_ngrams == [4, 5]  # <S> a b </S>; <S>a ab b</S> aa a</S>
    # a follows <S> and a; b follows a; </S> follows b and a: counts of 2, 1, 2. Each of the 4 words
    # gets 1/4 of γ = (1 + 0.5 + 1)/5. No count is 3: discounts of 0.5, 1, 1.5.
    a, b, end, unknown = (2 - 1) / 5 + 1 / 8, (1 - 0.5) / 5 + 1 / 8, (2 - 1) / 5 + 1 / 8, 1 / 8
    assert probability(model, START, 4, 3) == pytest.approx(0.5 * a)  # only </S> follows b, once
    assert probability(model, START, 3) == pytest.approx((2 - 1) / 2 + 1 / 2 * a)
    after_a = [probability(model, START, 3, word) for word in (3, 4, END, UNKNOWN)]
    expected = [0.5 / 3 + 0.5 * shorter for shorter in (a, b, end)]
    np.testing.assert_allclose(after_a, [*expected, 0.5 * unknown], rtol=1e-12)
    # <UNK> is no seen context: the unigram distribution.
    assert probability(model, START, UNKNOWN, 3) == pytest.approx(a)


def test_discounts_by_hand():
    # n = 4, 2, 1, 1: Y = 4/8; 1 - 2·Y·2/4, 2 - 3·Y·1/2, 3 - 4·Y·1/1.
    counts = np.array([1, 1, 1, 1, 2, 2, 3, 4, 9])
    np.testing.assert_allclose(estimate_discounts(counts), [0.5, 1.25, 1])
    np.testing.assert_array_equal(estimate_discounts(np.array([1, 1, 2, 4])), FALLBACK_DISCOUNTS)
    # 3 - 4·(1/3)·3 < 0.
    np.testing.assert_array_equal(
        estimate_discounts(np.array([1, 2, 3, 4, 4, 4])), FALLBACK_DISCOUNTS
    )


def test_equals_kenlm():
    """Output of KenLM 0.3.0, `lmplz -o 3 --discount_fallback` and `query`: base 10 logarithms."""
    model = KneserNey(text("abc", "abd", "bcab", "ca", "d", "abcd"), vocabulary_size=7, order=3)
    test = text("abc", "dcbx", "bab")
    test[test == ord("x") - ord("a") + 3] = UNKNOWN
    expected = [
        -0.9176487, -0.13840213, -0.3652017, -0.54129297,
        -0.6526164, -1.1139433, -1.1139433, -1.4149734, -0.56987536,
        -0.7160033, -1.4149734, -0.34274095, -0.6092784,
    ]  # fmt: skip
    assert model.num_ngrams == [6, 13, 14]  # KenLM's unigrams include <UNK>
    actual = -model.negative_log_likelihood(test) / np.log(10)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


class Reference:
    """The model implemented literally from its definition, with dictionaries."""

    def __init__(self, sentences, vocabulary_size, order):
        self.vocabulary_size, self.counts = vocabulary_size, []
        for length in range(1, order + 1):
            grams = [g for sentence in sentences for g in self.grams(sentence, length)]
            counts = collections.Counter(grams)
            if length < order:
                longer = {g for sentence in sentences for g in self.grams(sentence, length + 1)}
                preceded = collections.Counter(g[1:] for g in longer)
                counts = {g: counts[g] if g[0] == START else preceded[g] for g in counts}
            self.counts.append({g: c for g, c in counts.items() if g != (START,)})

    @staticmethod
    def grams(sentence, length):
        return zip(*(sentence[i:] for i in range(length)), strict=False)

    def probability(self, context, word):
        shorter = 1 / (self.vocabulary_size - 1)
        for length in range(min(len(context), len(self.counts) - 1) + 1):
            h = tuple(context[len(context) - length :])
            counts = self.counts[length]
            d = [0, *estimate_discounts(np.array(list(counts.values())))]
            followed = {g[-1]: c for g, c in counts.items() if g[:-1] == h}
            total = sum(followed.values())
            if total:
                count = followed.get(word, 0)
                discounted = sum(d[min(c, 3)] for c in followed.values())
                shorter = (count - d[min(count, 3)]) / total + discounted / total * shorter
        return shorter


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_equals_the_definition_and_sums_to_one(order):
    rng = np.random.default_rng(order)
    size = 9
    sentences = [
        [START, *rng.integers(2, size, rng.integers(1, 7)) // 2 * 2, END] for _ in range(25)
    ]
    model = KneserNey(np.concatenate(sentences), size, order)
    reference = Reference([tuple(map(int, sentence)) for sentence in sentences], size, order)
    seen = sentences[0][:-1]
    for context in (seen, seen[:2], [START], [START, 3, 5], [START, 4, 3], [START, 4, 4, 4, 4, 4]):
        words = [END, *range(2, size)]
        actual = [probability(model, *context, word) for word in words]
        expected = [reference.probability(tuple(map(int, context)), word) for word in words]
        np.testing.assert_allclose(actual, expected, rtol=1e-12)
        assert sum(actual) == pytest.approx(1, abs=1e-12)


def test_sentences_do_not_see_each_other():
    model = KneserNey(text("abc", "bca", "cab"), vocabulary_size=6)
    one, two = text("abca"), text("bc")
    joined = model.negative_log_likelihood(np.concatenate([one, two]))
    assert len(joined) == 5 + 3
    separate = [model.negative_log_likelihood(sentence) for sentence in (one, two)]
    np.testing.assert_array_equal(joined, np.concatenate(separate))


def test_order_beyond_every_sentence():
    short, long = (KneserNey(text("ab", "b"), 5, order) for order in (4, 9))
    assert long.num_ngrams == [4, 4, 3, 1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(
        long.negative_log_likelihood(text("abab")), short.negative_log_likelihood(text("abab"))
    )


def test_progress():
    calls = []
    KneserNey(text("ab", "aa"), 5, 2, lambda *arguments: calls.append(arguments))
    assert calls == [(1, 4), (2, 5)]


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], r"ids must be a vector of integers that starts with 1, the id of <S>, got float64"),
        ([3, 0], r"starts with 1, the id of <S>, got int64 \[2\]: \[3 0\]"),
        ([[1, 0]], r"a vector"),
        ([1.0, 0.0], r"a vector of integers"),
        ([1, 5, 0], r"ids must be from 0 to 4, got 5"),
        ([1, -1, 0], r"ids must be from 0 to 4, got -1"),
    ],
)
def test_invalid_arguments(ids, message):
    model = KneserNey(text("ab"), 5)
    for use in (lambda: KneserNey(ids, 5), lambda: model.negative_log_likelihood(ids)):
        with pytest.raises(ValueError, match=message):
            use()
    with pytest.raises(ValueError, match="order must be an integer"):
        KneserNey(text("ab"), 5, order=0)
