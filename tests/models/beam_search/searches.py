"""Searches with known results, shared by the tests of the beam search."""

import itertools

import numpy as np
import tensorflow as tf

from tfmoe.models.beam_search import Hypotheses, Settings, beam_search

END = 0


def search(step, states, *, batch_size, max_length, source_mask=None, **settings):
    """`beam_search` with the fields of `Settings` as arguments."""
    return beam_search(
        step,
        states,
        Settings(**settings),
        batch_size=batch_size,
        max_length=max_length,
        source_mask=source_mask,
    )


class RandomTranslator:
    """Random log-probabilities and attention for every prefix of every sentence.

    A prefix has a code: 0 for the empty prefix, `code * V + id + 1` after appending `id`. The state
    of a hypothesis is the code of its prefix, and its sentence: states that are not reordered with
    their hypotheses change the probabilities. With `markov`, only the last id counts.
    """

    def __init__(self, batch, vocabulary, length, sources=3, seed=0, markov=False, sharpness=2.0):
        self.batch, self.vocabulary, self.length, self.markov = batch, vocabulary, length, markov
        rng = np.random.default_rng(seed)
        codes = sum(vocabulary**n for n in range(length))
        logits = rng.normal(0, sharpness, (batch, codes, vocabulary))
        attention = rng.normal(0, sharpness, (batch, codes, sources))
        self.log_probabilities = tf.nn.log_softmax(tf.constant(logits, tf.float32)).numpy()
        self.attention = tf.nn.softmax(tf.constant(attention, tf.float32)).numpy()
        real = rng.integers(1, sources + 1, batch)
        self.mask = np.arange(sources) < real[:, None]

    def states(self, sentences=None):
        sentences = range(self.batch) if sentences is None else sentences
        return {
            "code": tf.fill([len(sentences)], -1),  # the start symbol is not read yet
            "sentence": tf.constant(list(sentences), tf.int32),
        }

    def after(self, code, token):
        """The code after reading a token. The first token is the start symbol, whatever its id."""
        return tf.where(code < 0, 0, token + 1 + (0 if self.markov else code * self.vocabulary))

    def step(self, ids, states):
        indices = tf.stack([states["sentence"], self.after(states["code"], ids)], axis=1)
        states = {"code": indices[:, 1], "sentence": states["sentence"]}
        return (
            tf.gather_nd(tf.constant(self.log_probabilities), indices),
            tf.gather_nd(tf.constant(self.attention), indices),
            states,
        )

    def search(self, beam_size, sentences=None, states=None, **kwargs):
        """Searches the given sentences; `kwargs` as for the function `search`."""
        sentences = range(self.batch) if sentences is None else sentences
        states = self.states(sentences) if states is None else states
        arguments = {
            "batch_size": len(sentences),
            "start_id": 1,
            "end_id": END,
            "vocabulary_size": self.vocabulary,
            "max_length": self.length,
            "source_mask": self.mask[list(sentences)],
        }
        return search(self.step, states, beam_size=beam_size, **{**arguments, **kwargs})

    def walk(self, sentence, symbols):
        """`log P` and coverage of a sequence of symbols, in float64."""
        code, total, coverage = 0, 0.0, 0.0
        for symbol in symbols:
            total += float(self.log_probabilities[sentence, code, symbol])
            coverage = coverage + self.attention[sentence, code].astype("float64")
            code = symbol + 1 + (0 if self.markov else code * self.vocabulary)
        return total, coverage

    def exhaustive(self, sentence, alpha, beta, max_length=None):
        """All ended sequences as `(score, log P, ids)`, best first, scored by the formula."""
        sequences = []
        words = [symbol for symbol in range(self.vocabulary) if symbol != END]
        for length in range(max_length or self.length):
            for ids in itertools.product(words, repeat=length):
                total, coverage = self.walk(sentence, [*ids, END])
                lp = ((5 + length + 1) / 6) ** alpha
                cp = beta * np.log(np.minimum(coverage[self.mask[sentence]], 1)).sum()
                sequences.append((total / lp + cp, total, ids))
        return sorted(sequences, reverse=True)

    def greedy(self, sentence):
        ids = []
        for _ in range(self.length):
            code = 0
            for symbol in ids:
                code = symbol + 1 + (0 if self.markov else code * self.vocabulary)
            best = int(np.argmax(self.log_probabilities[sentence, code]))
            if best == END:
                break
            ids.append(best)
        return ids


def ids_of(result, sentence=0, rank=0):
    """The list of ids of one hypothesis."""
    return result.ids[sentence, rank, : result.lengths[sentence, rank]].numpy().tolist()


def assert_same(a, b):
    """Asserts that two `Hypotheses` are bitwise equal."""
    for name, x, y in zip(Hypotheses._fields, a, b, strict=True):
        if x is not None or y is not None:
            np.testing.assert_array_equal(x, y, err_msg=name)


def fixed(rows, attention=None):
    """A step function that depends on the step t only: log-probabilities `rows` `[t, V]` and
    attention `[t, S]`. Its state is t.
    """
    rows = tf.constant(rows, tf.float32)

    def step(ids, t):
        weights = None if attention is None else tf.gather(tf.constant(attention, tf.float32), t)
        return tf.gather(rows, t), weights, t + 1

    return step


def search_fixed(rows, attention=None, batch=1, **kwargs):
    """A search with the step function `fixed`; `kwargs` as for `search`."""
    kwargs = {"start_id": 0, "end_id": END, "max_length": len(rows), **kwargs}
    if attention is None:
        kwargs["coverage_penalty"] = 0
    return search(
        fixed(rows, attention),
        tf.zeros([batch], tf.int32),
        batch_size=batch,
        vocabulary_size=len(rows[0]),
        **kwargs,
    )
