"""Text generation by an exported language model."""

import numpy as np
import pytest
import tensorflow as tf
from serving.small_language_models import (
    D,
    generate,
    make_model,
    recurrent_mixtures,
    serving,
)

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE, ProjectedLSTM
from tfmoe.serving.generation import sample_word


def lstm_and_mixture():
    return [ProjectedLSTM(D, return_sequences=True), MoE(4, 5, gate=NoisyTopK(k=2))]


@pytest.fixture(
    scope="module",
    params=[lstm_and_mixture, pytest.param(recurrent_mixtures, marks=pytest.mark.slow)],
)
def functions(request):
    return serving(make_model(request.param()))


def test_greedy_generation_takes_the_best_next_word(functions):
    for prefix in ("", "a b c", "c h d e"):
        outputs = generate(functions, [prefix])
        text, expected = prefix, []
        for _ in range(12):
            words = functions["next_token"](prefix=tf.constant([text]))["words"][0].numpy()
            best = next(word for word in words if word not in (b"<S>", b"<UNK>"))
            if best == b"</S>":
                break
            expected.append(best)
            text += f" {best.decode()}"
        assert outputs["text"].numpy().tolist() == [b" ".join(expected)]
        assert outputs["word_count"].numpy().tolist() == [len(expected)]
        assert outputs["ended"].numpy().tolist() == [len(expected) < 12]


def test_sampled_text_depends_on_prefix_and_seed_only(functions):
    prefixes, seeds = ["a", "a", "b c", ""], [1, 2, 1, 3]
    together = generate(functions, prefixes, temperature=[1.0], seed=seeds)["text"].numpy()
    alone = [
        generate(functions, [prefix], temperature=[1.0], seed=[seed])["text"].numpy()[0]
        for prefix, seed in zip(prefixes, seeds, strict=True)
    ]
    assert together.tolist() == alone
    shorter = generate(functions, prefixes, [3], [1.0], seeds)["words"].numpy()
    for short, long in zip(shorter, together, strict=True):
        assert [word for word in short if word] == long.split()[:3]
    same = generate(functions, ["a"] * 9, temperature=[1.0])["text"].numpy()
    assert len(set(same)) == 1
    many = generate(functions, ["a"] * 200, [1], [1.0], range(200))["words"].numpy()
    assert len(set(many.ravel())) > 2
    assert not {b"<UNK>", b"<S>"} & set(many.ravel())


def test_each_row_of_a_batch_has_its_controls(functions):
    """Each sentence gets what it would get alone, with its own length, temperature and seed."""
    rows = [
        ("a", 12, 1.0, 1),
        ("a", 3, 1.0, 1),
        ("a", 12, 0.0, 1),
        ("a", 12, 0.5, 2),
        ("", 0, 1.0, 3),
        ("c h d e x a b", 9, 2.5, 4),
        ("b", 1, 0.0, 5),
    ]
    batch = generate(functions, *zip(*rows, strict=True))
    assert batch["words"].shape == (len(rows), 12)
    for index, row in enumerate(rows):
        alone = generate(functions, *([value] for value in row))
        width = alone["words"].shape[1]
        assert width == row[1]
        assert batch["words"][index, :width].numpy().tolist() == alone["words"][0].numpy().tolist()
        assert not any(batch["words"][index, width:].numpy())
        for key in ("text", "word_count", "ended"):
            assert batch[key][index].numpy() == alone[key][0].numpy(), (row, key)
    assert len(set(batch["text"].numpy())) > 4
    assert not batch["ended"][4]  # a sentence of length 0 is not asked for its end


def test_controls_may_have_one_value_for_all_sentences(functions):
    prefixes = ["a", "b c", ""]
    shared = generate(functions, prefixes, [5], [1.0], [7])
    for key, value in generate(functions, prefixes, [5] * 3, [1.0] * 3, [7] * 3).items():
        assert value.numpy().tolist() == shared[key].numpy().tolist()


def test_scalars_have_the_effect_of_one_value(functions):
    """Exports of version 0.1.0 took `length` and `temperature` as scalars."""
    prefixes = ["a", "b c", ""]
    scalars = generate(functions, prefixes, 5, 1.0, [7])
    for key, value in generate(functions, prefixes, [5], [1.0], [7]).items():
        assert value.numpy().tolist() == scalars[key].numpy().tolist()
    with pytest.raises(tf.errors.InvalidArgumentError, match="length must be from 0 to 10000"):
        generate(functions, prefixes, -1)


def test_samples_follow_the_distribution():
    """softmax([0, log 3] / 1) = [1/4, 3/4]; at temperature 1/2 it is [1/10, 9/10]."""
    logits = tf.constant([[0.0, float("-inf"), np.log(3.0)]] * 4)
    draws = tf.constant([0.0, 0.24, 0.26, 0.999])
    for temperatures, expected in (
        ([1.0] * 4, [0, 0, 2, 2]),
        ([0.5] * 4, [0, 2, 2, 2]),
        ([0.0] * 4, [2, 2, 2, 2]),
        ([0.0, 0.5, 1.0, 0.5], [2, 2, 2, 2]),
        ([1.0, 1.0, 0.5, 0.0], [0, 0, 2, 2]),
    ):
        assert sample_word(logits, tf.constant(temperatures), draws).numpy().tolist() == expected


def test_samples_of_a_large_vocabulary():
    """Draws spread evenly over [0, 1) give every word its share: 1,000 words of weight 1 and 5 of
    weight 100 have the sum 1,500. Words that are excluded at both ends are never drawn.
    """
    weights = np.array([0.0, 0.0, *[1.0] * 400, *[100.0] * 5, *[1.0] * 600, 0.0])
    draws = tf.constant((np.arange(1500) + 0.5) / 1500, tf.float32)
    with np.errstate(divide="ignore"):
        logits = tf.constant(np.tile(np.log(weights), [1500, 1]), tf.float32)
    words = sample_word(logits, tf.ones([1500]), draws).numpy()
    np.testing.assert_allclose(np.bincount(words, minlength=1008), weights, atol=1)
    largest = tf.constant([np.nextafter(np.float32(1), np.float32(0))])
    assert sample_word(logits[:1], tf.ones([1]), largest).numpy() == [1006]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": [-1]}, r"length must be from 0 to 10000, got\] \[-1 -1\]"),
        ({"length": [3, 10_001]}, r"length must be from 0 to 10000, got\] \[10001\]"),
        ({"length": [1, 2, 3]}, "length must have one value, or one for each sentence"),
        ({"temperature": [-0.5]}, "temperature must be finite and at least 0"),
        ({"temperature": [1.0, float("nan")]}, "temperature must be finite and at least 0"),
        ({"temperature": [1.0] * 3}, "temperature must have one value, or one for each sentence"),
        ({"seed": [1, 2, 3]}, "seed must have one value, or one for each sentence"),
    ],
)
def test_invalid_inputs(functions, arguments, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        generate(functions, ["a", "b"], **arguments)
