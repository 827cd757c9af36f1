"""Loss, perplexity, gradients, `fit`."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from models.translation.small_model import (
    GATES,
    REAL,
    SOURCE,
    TARGET,
    TARGETS,
    evaluate,
    log_softmax,
    make_model,
    randomised,
    set_known_probabilities,
)

from tfmoe.gating import Batchwise
from tfmoe.layers import AttentionLSTM, MoE, ProjectedLSTM
from tfmoe.layers.expert_metrics import METRICS
from tfmoe.models import TranslationModel, residual_blocks

SOURCE_WORDS, WORDS = 3 + 1 + 4, 4 + 3 + 2


@pytest.mark.parametrize("gate", GATES)
def test_training_loss_and_gradients_do_not_depend_on_padding(gate):
    model = randomised(gate=gate)
    for block in model.blocks:
        if isinstance(block.layer, MoE) and gate == "noisy_top_k":
            block.layer.gate.noise = False
    results = []
    for wide in (0, 3):
        inputs = tuple(np.pad(x, [(0, 1 if wide else 0), (0, wide)]) for x in (SOURCE, TARGET))
        targets = np.pad(TARGETS, [(0, 1 if wide else 0), (0, wide)])
        with tf.GradientTape() as tape:
            loss = model.compute_loss(inputs, targets, model(inputs, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        results.append([loss])
        for gradient in gradients:  # None for the noise kernel, unused without noise
            results[-1].append(tf.convert_to_tensor(0.0 if gradient is None else gradient))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)


def test_perplexity_by_hand():
    model = make_model()
    model.compile("adam")
    model.build((None, None))
    set_known_probabilities(model)
    # -log2 p: 3 + 4 + 4 + 1; 3 + 4 + 1; 4 + 1: 25 bits over 9 subwords, sentence ends included.
    logs = evaluate(model)
    assert logs["perplexity"] == pytest.approx(2 ** (25 / 9), rel=1e-5)
    assert logs["loss"] == pytest.approx(25 / 9 * np.log(2), rel=1e-5)
    assert model.perplexity.count.numpy() == WORDS
    assert logs["words"] == SOURCE_WORDS + WORDS
    nll = model.negative_log_likelihood((SOURCE, TARGET), TARGETS).numpy()
    np.testing.assert_allclose(nll / np.log(2), [3, 4, 4, 1, 3, 4, 1, 4, 1], rtol=1e-5)


def test_perplexity_does_not_depend_on_the_batches():
    model = randomised()
    whole = evaluate(model)["perplexity"]
    assert evaluate(model, batch_size=1)["perplexity"] == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_training_loss_is_the_mean_over_target_words_plus_the_gates_losses(gate):
    model = randomised(gate=gate)
    features = model((SOURCE, TARGET), training=True)
    added = sum(model.losses).numpy()
    assert added > 0
    model.words.reset_state()
    loss = model.compute_loss((SOURCE, TARGET), TARGETS, features).numpy()
    assert model.words.result() == SOURCE_WORDS + WORDS
    log_p = log_softmax(model.word_logits(features).numpy())
    picked = np.take_along_axis(log_p, TARGETS[..., None], axis=-1)[..., 0]
    assert loss == pytest.approx(-picked[REAL].mean() + added, rel=1e-5)


@pytest.mark.parametrize("num_sampled", [None, 5])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_the_task_trains_every_weight_except_thresholds(gate, groups, num_sampled):
    model = randomised(gate=gate, groups=groups, num_sampled=num_sampled)
    with tf.GradientTape() as tape:
        features = model((SOURCE, TARGET), training=True)
        rows, targets = model.real_positions((SOURCE, TARGET), TARGETS, features)
        task = tf.reduce_mean(model.softmax.training_loss(rows, targets))
    gradients = tape.gradient(task, model.trainable_variables)
    seen = set()
    for weight, gradient in zip(model.trainable_variables, gradients, strict=True):
        is_zero = gradient is None or not np.any(tf.convert_to_tensor(gradient).numpy())
        assert is_zero == (weight.name == "log_thresholds"), weight.path
        seen.add(weight.name)
    assert {"source_kernel", "query_kernel", "scale", "context_kernel", "projection_kernel"} < seen
    with tf.GradientTape() as tape:
        features = model((SOURCE, TARGET), training=True)
        loss = model.compute_loss((SOURCE, TARGET), TARGETS, features)
    for gradient in tape.gradient(loss, model.trainable_variables):
        assert np.any(tf.convert_to_tensor(gradient).numpy())


def test_fit_reports_losses_metrics_and_the_perplexity_of_evaluation():
    model = make_model(num_sampled=5, dropout=0.2)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    history = model.fit(
        (SOURCE, TARGET),
        TARGETS,
        batch_size=2,
        epochs=2,
        verbose=0,
        validation_data=((SOURCE, TARGET), TARGETS),
    ).history
    names = {f"{part}_moe_{name}" for part in ("encoder", "decoder") for name in METRICS}
    assert {"loss", "words", "val_loss", "val_words", "val_perplexity"} < set(history)
    assert names < set(history) and "perplexity" not in history
    assert history["words"] == history["val_words"] == [SOURCE_WORDS + WORDS] * 2
    assert np.all(np.isfinite(history["loss"]))
    np.testing.assert_allclose(np.exp(history["val_loss"]), history["val_perplexity"], rtol=1e-6)


def reversals(num_pairs, seed):
    """Pairs of a sequence of 2 to 5 symbols, each from 3 to 7, and its reversal."""
    rng = np.random.default_rng(seed)
    source, target, targets = (np.zeros((num_pairs, length), np.int32) for length in (5, 6, 6))
    for row, n in enumerate(rng.integers(2, 6, num_pairs)):
        source[row, :n] = rng.integers(3, 8, n)
        target[row, : n + 1] = [1, *source[row, :n][::-1]]
        targets[row, : n + 1] = [*source[row, :n][::-1], 0]
    return (source, target), targets


@pytest.mark.slow
def test_learns_to_reverse():
    keras.utils.set_random_seed(1)
    d = 24

    def moe(name):
        return MoE(4, 32, gate=Batchwise(k=2), name=name)

    model = TranslationModel(
        8,
        d,
        residual_blocks([ProjectedLSTM(d, return_sequences=True), moe("a")], seed=1),
        residual_blocks([AttentionLSTM(48, d), moe("b")], seed=2),
        seed=1,
    )
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 200)))
    inputs, targets = reversals(128 * 100, seed=0)
    model.fit(inputs, targets, batch_size=128, epochs=2, verbose=0)
    (source, _), expected = reversals(200, seed=1)
    result = model.translate(source, beam_size=1, length_penalty=0.0, coverage_penalty=0.0)
    width = expected.shape[1]
    assert result.ids.shape[1:] == (1, 2 * 5 + 10)
    ids = np.pad(result.ids.numpy()[:, 0], [(0, 0), (0, width)])
    right = (ids[:, :width] == expected).all(axis=1) & ~ids[:, width:].any(axis=1)
    assert right.mean() > 0.95
    lengths = (expected != 0).sum(axis=1)
    np.testing.assert_array_equal(result.lengths.numpy()[right, 0], lengths[right])
    # The beam search of a sentence does not depend on the rest of the batch.
    beam = model.translate(source, beam_size=3)
    alone = model.translate(source[:1], beam_size=3)
    n = int(alone.lengths[0, 0])
    np.testing.assert_array_equal(alone.ids[0, 0, :n], beam.ids[0, 0, :n])


def test_batch_of_padding_only_is_finite():
    model = make_model(num_sampled=5)
    model.compile("adam", run_eagerly=True)
    padding = np.zeros((2, 3), np.int32)
    model.train_on_batch((padding, padding), padding)
    for weight in model.trainable_weights:
        assert np.all(np.isfinite(weight.numpy())), weight.path
    assert evaluate(model, padding, padding, padding)["perplexity"] == 1


def test_sample_weights_raise():
    model = make_model()
    model.compile("adam")
    with pytest.raises(ValueError, match=r"sample_weight must be None"):
        model.fit((SOURCE, TARGET), TARGETS, sample_weight=np.ones(3), verbose=0)
