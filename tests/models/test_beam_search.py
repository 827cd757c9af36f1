import importlib
import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from tfmoe.models.beam_search import Hypotheses, beam_search, tile

# The name is also that of a function, which tfmoe.models may export.
module = importlib.import_module("tfmoe.models.beam_search")

END = 0


class RandomTranslator:
    """Random log-probabilities and attention for every prefix of every sentence.

    A prefix has a code: the empty one is 0, and after `id` it is `code * V + id + 1`. The state of
    a hypothesis is the code of what it has read so far and its sentence, so that a state that is
    not reordered with its hypothesis gives other probabilities. With `markov` only the newest id
    counts.
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
            "code": tf.fill([len(sentences)], -1),  # nothing read, not even the start
            "sentence": tf.constant(list(sentences), tf.int32),
        }

    def after(self, code, token):
        """Code after a token. The first one read is the start, whatever it is."""
        return tf.where(code < 0, 0, token + 1 + (0 if self.markov else code * self.vocabulary))

    def step(self, ids, states):
        places = tf.stack([states["sentence"], self.after(states["code"], ids)], axis=1)
        states = {"code": places[:, 1], "sentence": states["sentence"]}
        return (
            tf.gather_nd(tf.constant(self.log_probabilities), places),
            tf.gather_nd(tf.constant(self.attention), places),
            states,
        )

    def search(self, beam_size, sentences=None, states=None, **kwargs):
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
        return beam_search(self.step, states, beam_size=beam_size, **{**arguments, **kwargs})

    def walk(self, sentence, symbols):
        """`log P` and coverage of symbols, in float64."""
        code, total, coverage = 0, 0.0, 0.0
        for symbol in symbols:
            total += float(self.log_probabilities[sentence, code, symbol])
            coverage = coverage + self.attention[sentence, code].astype("float64")
            code = symbol + 1 + (0 if self.markov else code * self.vocabulary)
        return total, coverage

    def ranked(self, sentence, alpha, beta, max_length=None):
        """All ended sequences as `(score, log P, ids)`, best first, by the formula."""
        found = []
        words = [symbol for symbol in range(self.vocabulary) if symbol != END]
        for length in range(max_length or self.length):
            for ids in itertools.product(words, repeat=length):
                total, coverage = self.walk(sentence, [*ids, END])
                lp = ((5 + length + 1) / 6) ** alpha
                cp = beta * np.log(np.minimum(coverage[self.mask[sentence]], 1)).sum()
                found.append((total / lp + cp, total, ids))
        return sorted(found, reverse=True)

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


def words_of(found, sentence=0, place=0):
    return found.ids[sentence, place, : found.lengths[sentence, place]].numpy().tolist()


def same(a, b):
    for name, x, y in zip(Hypotheses._fields, a, b, strict=True):
        if x is not None or y is not None:
            np.testing.assert_array_equal(x, y, err_msg=name)


def fixed(rows, attention=None):
    """A step that gives the same log-probabilities at step t whatever came before: rows `[t, V]`,
    attention `[t, S]`. Its state is t."""
    rows = tf.constant(rows, tf.float32)

    def step(ids, t):
        found = None if attention is None else tf.gather(tf.constant(attention, tf.float32), t)
        return tf.gather(rows, t), found, t + 1

    return step


def search_fixed(rows, attention=None, batch=1, **kwargs):
    kwargs = {"start_id": 0, "end_id": END, "max_length": len(rows), **kwargs}
    if attention is None:
        kwargs["coverage_penalty"] = 0
    return beam_search(
        fixed(rows, attention),
        tf.zeros([batch], tf.int32),
        batch_size=batch,
        vocabulary_size=len(rows[0]),
        **kwargs,
    )


@pytest.mark.parametrize("markov", [False, True])
@pytest.mark.parametrize(("alpha", "beta"), [(0, 0), (0.2, 0.2), (1, 0), (0, 1), (2, 0.5)])
def test_a_wide_beam_finds_what_exhaustive_search_finds(alpha, beta, markov):
    # 27 prefixes of three words, so 108 candidates at step 4: nothing is ever dropped.
    translator = RandomTranslator(6, 4, 4, seed=round(10 * alpha + beta), markov=markov)
    found = translator.search(
        108, num_best=40, length_penalty=alpha, coverage_penalty=beta, keep_attention=True
    )
    for sentence in range(6):
        expected = translator.ranked(sentence, alpha, beta)
        assert len(expected) == 40
        np.testing.assert_allclose(found.scores[sentence], [s for s, _, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(
            found.log_probabilities[sentence], [p for _, p, _ in expected], rtol=1e-5
        )
        for place, (_, _, ids) in enumerate(expected):
            assert words_of(found, sentence, place) == list(ids)
            assert not found.ids[sentence, place, len(ids) :].numpy().any()
            maps = found.attention[sentence, place].numpy()
            _, coverage = translator.walk(sentence, [*ids, END])
            np.testing.assert_allclose(maps.sum(0), coverage, rtol=1e-5)
            assert not maps[len(ids) + 1 :].any()


@pytest.mark.parametrize("num_best", [1, 3])
def test_few_of_the_best_are_the_first_of_many(num_best):
    translator = RandomTranslator(20, 4, 4, seed=5)
    few, many = translator.search(108, num_best=num_best), translator.search(108, num_best=40)
    same(few, Hypotheses(*(x if x is None else x[:, :num_best] for x in many)))


@pytest.mark.parametrize("beam_size", [1, 6])
@pytest.mark.parametrize(("end_id", "start_id"), [(3, 2), (2, 2)])
def test_the_end_may_be_any_id(end_id, start_id, beam_size):
    # The words of a translator whose end is 0, renamed: id i is now end_id + i, modulo 4.
    translator = RandomTranslator(5, 4, 4, seed=8)
    old = tf.constant([(i - end_id) % 4 for i in range(4)])

    def step(ids, states):
        values, attention, states = translator.step(tf.gather(old, ids), states)
        return tf.gather(values, old, axis=1), attention, states

    limits = [4, 3, 2, 1, 4]
    expected = translator.search(beam_size, max_length=limits)
    found = beam_search(
        step,
        translator.states(),
        batch_size=5,
        start_id=start_id,
        end_id=end_id,
        vocabulary_size=4,
        beam_size=beam_size,
        max_length=limits,
        source_mask=translator.mask,
    )
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    np.testing.assert_array_equal(found.scores, expected.scores)
    for sentence, place in itertools.product(range(5), range(beam_size)):
        renamed = [(i + end_id) % 4 for i in words_of(expected, sentence, place)]
        assert words_of(found, sentence, place) == renamed
        assert not found.ids[sentence, place, len(renamed) :].numpy().any()  # padded with 0


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
def test_width_1_without_penalties_is_greedy_search(sharpness):
    translator = RandomTranslator(60, 5, 5, seed=1, sharpness=sharpness)
    found = translator.search(1, length_penalty=0, coverage_penalty=0)
    greedy = [translator.greedy(sentence) for sentence in range(60)]
    assert {len(ids) for ids in greedy} > {0, 1, 5}  # ended early, late and not at all
    for sentence, ids in enumerate(greedy):
        assert words_of(found, sentence) == ids
        total, _ = translator.walk(sentence, ids + [END] * (len(ids) < 5))
        assert found.scores[sentence, 0].numpy() == pytest.approx(total, rel=1e-5)


def test_width_1_with_a_length_penalty_may_go_past_the_first_end():
    # Step 1: the end has 0.5, id 1 has 0.45. Then the end is all but sure: two symbols have the
    # score log(0.45) / (7 / 6) = -0.684, better than log(0.5) / (6 / 6) = -0.693.
    rows = np.log([[0.5, 0.45, 0.05], [0.9999, 0.00005, 0.00005], [1 / 3, 1 / 3, 1 / 3]])
    assert words_of(search_fixed(rows, beam_size=1, length_penalty=0)) == []
    assert words_of(search_fixed(rows, beam_size=1, length_penalty=1)) == [1]


def test_a_wider_beam_finds_what_greedy_search_misses():
    # Greedy: id 1 (0.6), then 0.4 at best. The other way: id 2 (0.4), then the end for sure.
    first, after = np.log([1e-9, 0.6, 0.4]), np.log([[0.4, 0.3, 0.3], [1, 1e-9, 1e-9]])

    def step(ids, t):
        later = tf.gather(tf.constant(after, tf.float32), tf.maximum(ids - 1, 0))
        return tf.where(t[:, None] == 0, tf.constant(first, tf.float32), later), None, t + 1

    def search(beam_size):
        return beam_search(
            step,
            tf.zeros([1], tf.int32),
            batch_size=1,
            start_id=0,
            end_id=END,
            vocabulary_size=3,
            beam_size=beam_size,
            max_length=3,
            length_penalty=0,
            coverage_penalty=0,
        )

    assert words_of(search(1)) == [1]
    assert words_of(search(2)) == [2]
    np.testing.assert_allclose(search(2).log_probabilities[0], np.log([0.4, 0.24]), rtol=1e-5)


@pytest.mark.parametrize("beam_size", [1, 2, 4])
@pytest.mark.parametrize("num_best", [1, None])
def test_stopping_early_changes_nothing(monkeypatch, beam_size, num_best):
    translator = RandomTranslator(60, 4, 6, seed=3, sharpness=3.0)
    num_best = num_best and min(num_best, beam_size)
    steps = []
    step = translator.step
    translator.step = lambda *inputs: steps.append(1) or step(*inputs)

    def search(sentences, alpha, beta):
        return translator.search(
            beam_size, sentences, length_penalty=alpha, coverage_penalty=beta, num_best=num_best
        )

    def searches():
        together = [search(range(60), *pair) for pair in [(0, 0), (0.2, 0.2), (1.5, 0)]]
        steps.clear()
        return together, [search([sentence], 0.2, 0.2) for sentence in range(8)], len(steps)

    *early, few_steps = searches()
    monkeypatch.setattr(module, "best_possible", lambda p, *_: tf.zeros_like(p) + np.inf)
    *late, all_steps = searches()
    for a, b in zip([*early[0], *early[1]], [*late[0], *late[1]], strict=True):
        same(a, b)
    assert few_steps < all_steps == 8 * 6


def test_the_bound_of_a_live_hypothesis():
    # log P = -3 and at most 7 symbols: -3 / (12 / 6)^2.
    bound = module.best_possible(tf.constant([-3.0]), tf.constant([7]), 2.0)
    np.testing.assert_allclose(bound, [-0.75])


@pytest.mark.parametrize("beam_size", [1, 3])
def test_a_sentence_does_not_depend_on_the_others(beam_size):
    translator = RandomTranslator(12, 4, 5, seed=4)
    limits = np.arange(12) % 5 + 1
    together = translator.search(beam_size, max_length=limits, keep_attention=True)
    for sentence in range(12):
        alone = translator.search(
            beam_size, [sentence], max_length=limits[[sentence]], keep_attention=True
        )
        length = limits[sentence]
        assert alone.ids.shape == (1, beam_size, length)
        cut = {
            name: getattr(together, name)[sentence : sentence + 1, :, :length]
            for name in ("ids", "attention")
        }
        rest = {
            name: getattr(together, name)[sentence : sentence + 1]
            for name in ("lengths", "scores", "log_probabilities")
        }
        same(Hypotheses(**cut, **rest), alone)
        assert not together.ids[sentence, :, length:].numpy().any()


def test_length_penalty_by_hand():
    # id 1 with 0.5, then the end with 0.8: log P = log 0.4 over two symbols, lp = (7 / 6)^0.5.
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    found = search_fixed(rows, beam_size=2, length_penalty=0.5)
    assert words_of(found) == [1] and words_of(found, place=1) == []
    np.testing.assert_allclose(found.log_probabilities[0], np.log([0.4, 0.3]), rtol=1e-6)
    np.testing.assert_allclose(
        found.scores[0], [math.log(0.4) / math.sqrt(7 / 6), math.log(0.3)], rtol=1e-6
    )


def test_coverage_penalty_by_hand():
    # Source of three positions and a padded one. [1] then the end: attention [0.2 0.8 0.5] in all,
    # at the first alone 0.1 0.1 0.3. β = 0.4; the attention to the padding is not looked at.
    rows = np.log([[0.3, 0.7], [0.8, 0.2]])
    attention = [[0.1, 0.1, 0.3, 0.5], [0.1, 0.7, 0.2, 0.0]]
    found = search_fixed(
        rows,
        attention,
        beam_size=2,
        length_penalty=0,
        coverage_penalty=0.4,
        source_mask=[[True, True, True, False]],
    )
    long = math.log(0.56) + 0.4 * (math.log(0.2) + math.log(0.8) + math.log(0.5))
    short = math.log(0.3) + 0.4 * (math.log(0.1) + math.log(0.1) + math.log(0.3))
    assert words_of(found) == [1] and words_of(found, place=1) == []
    np.testing.assert_allclose(found.scores[0], [long, short], rtol=1e-6)


def test_coverage_above_1_counts_as_1():
    rows = np.log([[0.1, 0.9], [0.9, 0.1]])
    found = search_fixed(
        rows,
        [[0.9, 0.1], [0.8, 0.2]],
        beam_size=1,
        length_penalty=0,
        coverage_penalty=1,
        source_mask=[[True, True]],
    )
    # Two steps: 1.7 counts as 1, and 0.3.
    np.testing.assert_allclose(found.scores, [[math.log(0.81) + math.log(0.3)]], rtol=1e-6)


def test_a_position_without_any_attention_leaves_the_scores_finite_and_in_order():
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    attention = [[1.0, 0.0], [1.0, 0.0]]
    found = search_fixed(rows, attention, beam_size=2, source_mask=[[True, True]])
    assert np.isfinite(found.scores).all()
    assert words_of(found) == [1]


def test_the_search_ends_at_max_length_with_what_lives_if_none_has_ended():
    rows = np.log([[1e-30, 0.6, 0.4]] * 4)
    attention = [[0.5, 0.5], [0.25, 0.75], [0.5, 0.5], [0.5, 0.5]]
    found = search_fixed(
        rows,
        attention,
        batch=2,
        beam_size=2,
        max_length=[1, 2],
        length_penalty=1,
        coverage_penalty=0.5,
        source_mask=[[True, True]] * 2,
        keep_attention=True,
    )
    np.testing.assert_array_equal(found.ids, [[[1, 0], [2, 0]], [[1, 1], [1, 2]]])
    np.testing.assert_array_equal(found.lengths, [[1, 1], [2, 2]])
    np.testing.assert_allclose(
        found.log_probabilities, np.log([[0.6, 0.4], [0.36, 0.24]]), rtol=1e-6
    )
    cp = 0.5 * math.log(0.75)  # 0.75, and 1.25 counts as 1
    expected = [
        np.log([0.6, 0.4]) + 0.5 * 2 * math.log(0.5),
        np.log([0.36, 0.24]) / (7 / 6) + cp,
    ]
    np.testing.assert_allclose(found.scores, expected, rtol=1e-6)
    np.testing.assert_allclose(found.attention[0, 0], [[0.5, 0.5], [0, 0]])
    np.testing.assert_allclose(found.attention[1, 1], [[0.5, 0.5], [0.25, 0.75]])


def test_what_has_ended_comes_before_what_was_cut_off():
    rows = np.log([[0.3, 0.69, 0.01], [1e-30, 0.9, 0.1]])
    found = search_fixed(rows, beam_size=2, length_penalty=0)
    # [1 1] has 0.62, but did not end: there is one hypothesis, and an empty place.
    assert words_of(found) == []
    np.testing.assert_allclose(found.scores[0], [math.log(0.3), -np.inf], rtol=1e-6)
    np.testing.assert_array_equal(found.lengths, [[0, 0]])
    assert found.log_probabilities[0, 1] == -np.inf


def test_equals_go_by_rank_then_by_id():
    rows = np.log(np.full([3, 4], 0.25))
    found = search_fixed(rows, beam_size=3, length_penalty=0)
    # The three best of step 1 are the end, 1 and 2; of step 2: [1 end], [1 1] and [1 2].
    # Of step 3, [1 1 end].
    assert [words_of(found, place=place) for place in range(3)] == [[], [1], [1, 1]]


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_sentence_of_nan_ends_and_leaves_the_others_alone(bad, compiled):
    translator = RandomTranslator(3, 4, 4, seed=6)
    expected = translator.search(2)
    translator.log_probabilities[1] = bad
    search = tf.function(translator.search) if compiled else translator.search
    found = search(2)
    for x, y in zip(found[:4], expected[:4], strict=True):
        np.testing.assert_array_equal(x[::2], y[::2])
    np.testing.assert_array_equal(found.lengths[1], [0, 0])
    np.testing.assert_array_equal(found.ids[1], np.zeros([2, 4]))
    np.testing.assert_array_equal(found.scores[1], [-np.inf, -np.inf])


@pytest.mark.parametrize("beam_size", [1, 3])
def test_an_id_of_nan_is_never_taken(beam_size):
    translator = RandomTranslator(40, 5, 4, seed=12)
    bad = np.random.default_rng(0).random(translator.log_probabilities.shape) < 0.4
    translator.log_probabilities[bad] = -np.inf
    expected = translator.search(beam_size)
    translator.log_probabilities[bad] = np.nan
    same(translator.search(beam_size), expected)


def test_attention_of_nan_never_wins():
    translator = RandomTranslator(2, 4, 4, seed=6)
    translator.attention[1, 0] = np.nan  # read by every hypothesis of sentence 1
    found = translator.search(3)
    assert np.isfinite(found.scores[0, 0])
    np.testing.assert_array_equal(found.scores[1], [-np.inf] * 3)
    np.testing.assert_array_equal(found.lengths[1], [0] * 3)
    kept = translator.search(3, coverage_penalty=0, keep_attention=True)  # but does no harm there
    same(translator.search(3, coverage_penalty=0), kept._replace(attention=None))


@pytest.mark.parametrize("num_best", [1, 5])
def test_shapes_types_and_order(num_best):
    translator = RandomTranslator(7, 4, 6, sources=5, seed=7)
    found = translator.search(5, num_best=num_best, keep_attention=True)
    shapes = [x.shape for x in found]
    assert shapes == [(7, num_best, 6), *[(7, num_best)] * 3, (7, num_best, 6, 5)]
    types = [x.dtype for x in found]
    assert types == [tf.int32, tf.int32, tf.float32, tf.float32, tf.float32]
    assert (np.diff(found.scores, axis=1) <= 0).all()
    assert (found.log_probabilities <= 0).numpy().all()
    assert translator.search(5).attention is None


def test_half_precision_is_read_and_summed_in_float32():
    rows = np.log([[0.3, 0.5, 0.2], [0.8, 0.1, 0.1]])
    step = fixed(rows)

    def half(ids, t):
        values, _, t = step(ids, t)
        return tf.cast(values, tf.bfloat16), None, t

    found = beam_search(
        half,
        tf.zeros([1], tf.int32),
        batch_size=1,
        start_id=0,
        end_id=END,
        vocabulary_size=3,
        beam_size=2,
        max_length=2,
        coverage_penalty=0,
    )
    values = tf.cast(tf.cast(rows, tf.bfloat16), tf.float32)
    assert found.log_probabilities[0, 0] == values[0, 1] + values[1, 0]


def test_states_may_be_any_structure_and_constants_may_be_closed_over():
    translator = RandomTranslator(4, 4, 4, seed=9)
    expected = translator.search(3)
    sentences = tile(tf.range(4), 3)
    np.testing.assert_array_equal(sentences, np.repeat(range(4), 3))

    def step(ids, states):
        (code,), history = states
        values, attention, new = translator.step(ids, {"code": code, "sentence": sentences})
        return values, attention, ([new["code"]], history)

    states = ([tf.fill([4], -1)], tf.zeros([4, 2, 3]))
    arguments = {"start_id": 1, "end_id": END, "vocabulary_size": 4, "max_length": 4}
    same(
        expected,
        beam_search(
            step, states, batch_size=4, beam_size=3, source_mask=translator.mask, **arguments
        ),
    )


def test_tile_takes_structures():
    tiled = tile({"a": tf.constant([[1, 2], [3, 4]]), "b": (tf.constant([5.0, 6.0]),)}, 2)
    np.testing.assert_array_equal(tiled["a"], [[1, 2], [1, 2], [3, 4], [3, 4]])
    np.testing.assert_array_equal(tiled["b"][0], [5, 5, 6, 6])


class Exported(tf.Module):
    """A search of unknown batch size, as a signature."""

    def __init__(self, translator):
        super().__init__()
        self.translator = translator

    @tf.function(
        input_signature=[
            tf.TensorSpec([None], tf.int32, name="sentences"),
            tf.TensorSpec([None, None], tf.bool, name="mask"),
            tf.TensorSpec([None], tf.int32, name="max_length"),
        ]
    )
    def search(self, sentences, mask, max_length):
        size = tf.shape(sentences)[0]
        found = beam_search(
            self.translator.step,
            {"code": tf.fill([size], -1), "sentence": sentences},
            batch_size=size,
            start_id=1,
            end_id=END,
            vocabulary_size=4,
            beam_size=3,
            max_length=max_length,
            source_mask=mask,
            keep_attention=True,
        )
        return found._asdict()


def test_in_a_saved_model_of_unknown_batch_size(tmp_path):
    translator = RandomTranslator(5, 4, 5, seed=10)
    exported = Exported(translator)
    tf.saved_model.save(exported, tmp_path, signatures=exported.search)
    search = tf.saved_model.load(tmp_path).signatures["serving_default"]
    limits = np.array([5, 1, 4, 2, 3], np.int32)
    for chosen in ([0, 1, 2, 3, 4], [3], [4, 2]):
        inputs = [
            tf.constant(chosen, tf.int32),
            tf.constant(translator.mask[chosen]),
            tf.constant(limits[chosen]),
        ]
        expected = translator.search(3, chosen, max_length=limits[chosen], keep_attention=True)
        same(expected, Hypotheses(**exported.search(*inputs)))
        loaded = search(sentences=inputs[0], mask=inputs[1], max_length=inputs[2])
        same(expected, Hypotheses(**loaded))
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_length must be at least 1"):
        exported.search(inputs[0], inputs[1], tf.constant([3, 0]))


def test_no_sentences_at_all():
    translator = RandomTranslator(1, 4, 3)
    found = translator.search(2, [])
    assert [x.shape for x in found[:4]] == [(0, 2, 3), (0, 2), (0, 2), (0, 2)]
    empty = tf.zeros([0], tf.int32)
    exported = Exported(translator)
    found = exported.search(empty, tf.zeros([0, 3], tf.bool), empty)
    assert found["scores"].shape == (0, 3)


def test_shapes_are_known_within_a_graph_where_the_arguments_say_them():
    translator = RandomTranslator(2, 4, 3)
    shapes = []

    @tf.function
    def search():
        found = translator.search(2)
        shapes.extend(x.shape.as_list() for x in found[:4])

    search()
    assert shapes == [[2, 2, 3], [2, 2], [2, 2], [2, 2]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beam_size": 0}, "beam_size must be an integer of at least 1, got 0"),
        ({"beam_size": 2.0}, "beam_size must be an integer of at least 1"),
        ({"vocabulary_size": 0}, "vocabulary_size must be an integer of at least 1"),
        ({"vocabulary_size": 5}, "vocabulary_size is 5, but step returns log-probabilities of"),
        ({"num_best": 0}, "num_best must be an integer of at least 1"),
        ({"num_best": 3}, "num_best must be at most beam_size 2, got 3"),
        ({"start_id": 4}, "start_id must be .* below vocabulary_size 4, got 4"),
        ({"end_id": -1}, "end_id must be .* below vocabulary_size 4, got -1"),
        ({"end_id": 1.0}, "end_id must be an integer"),
        ({"length_penalty": -0.1}, "length_penalty must be a finite number of at least 0"),
        ({"coverage_penalty": np.nan}, "coverage_penalty must be a finite number of at least 0"),
        ({"max_length": 0}, "max_length must be at least 1, got 0"),
        ({"max_length": [3, 0]}, "max_length must be at least 1"),
        ({"max_length": 2.5}, "max_length must be one integer or a row of them"),
        ({"max_length": [[3, 3]]}, "max_length must be one integer or a row of them"),
        ({"max_length": [3, 3, 3]}, "max_length must have a leading axis of batch_size 2"),
        ({"batch_size": -1}, "batch_size must be an integer of at least 0"),
        ({"batch_size": 3}, "states must have a leading axis of batch_size 3"),
        ({"source_mask": None}, "source_mask must be given with coverage_penalty above 0"),
        (
            {"source_mask": None, "coverage_penalty": 0, "keep_attention": True},
            "source_mask must be given with keep_attention",
        ),
        ({"source_mask": [[True] * 3]}, "source_mask must have a leading axis of batch_size 2"),
        ({"source_mask": [True, True]}, "source_mask must have .* 2 axes"),
        ({"source_mask": [[True]] * 2}, "the width of source_mask is 1, but step returns"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    translator = RandomTranslator(2, 4, 3)
    with pytest.raises(ValueError, match=message):
        translator.search(**{"beam_size": 2, **arguments})


def test_penalising_coverage_without_attention_is_refused():
    with pytest.raises(ValueError, match="no attention: coverage_penalty must be 0"):
        beam_search(
            fixed(np.log([[0.5, 0.5]])),
            tf.zeros([1], tf.int32),
            batch_size=1,
            start_id=0,
            end_id=END,
            vocabulary_size=2,
            beam_size=1,
            max_length=1,
            source_mask=[[True]],
        )


def test_states_that_change_their_shape_are_refused():
    def step(ids, states):
        return tf.zeros([2, 2]), None, tf.concat([states, states], axis=1)

    with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
        beam_search(
            step,
            tf.zeros([1, 3]),
            batch_size=1,
            start_id=0,
            end_id=END,
            vocabulary_size=2,
            beam_size=2,
            max_length=2,
            coverage_penalty=0,
        )
