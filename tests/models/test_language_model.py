import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.analysis.operations import describe
from tfmoe.gating import NoisyTopK
from tfmoe.layers import FeedForward, MoE, ProjectedLSTM
from tfmoe.layers.expert_metrics import METRICS
from tfmoe.models import LanguageModel, residual_blocks

V, D = 13, 6
# Three sentences, of 4, 2 and 3 predictions. Id 0 is both padding (input) and </S> (target).
TOKENS = np.array([[1, 3, 4, 5], [1, 6, 0, 0], [1, 12, 7, 0]], np.int32)
TARGETS = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [12, 7, 0, 0]], np.int32)
WORDS = 4 + 2 + 3


def make_model(num_sampled=None, dropout=0.0, noise=True, seed=1, groups=None):
    keras.utils.set_random_seed(seed)
    gate = NoisyTopK(k=2, noise=noise)
    layers = [
        ProjectedLSTM(D, return_sequences=True, name="lstm_1"),
        MoE(4, 8, gate=gate, groups=groups, metrics="all", name="moe"),
        ProjectedLSTM(9, D, return_sequences=True, name="lstm_2"),
    ]
    blocks = residual_blocks(layers, dropout=dropout, seed=seed)
    model = LanguageModel(V, D, blocks, dropout=dropout, num_sampled=num_sampled, seed=seed)
    model.compile(keras.optimizers.Adam(0.01))
    return model


def randomise_gates(model):
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        if "gate_kernel" in weight.path:
            weight.assign(rng.standard_normal(weight.shape))


def evaluate(model, tokens=TOKENS, targets=TARGETS, batch_size=32):
    result = model.evaluate(tokens, targets, batch_size=batch_size, verbose=0, return_dict=True)
    assert np.exp(result["loss"]) == pytest.approx(result["perplexity"], rel=1e-6)
    return result["perplexity"]


@pytest.fixture(scope="module")
def fitted():
    model = make_model(num_sampled=5, dropout=0.1)
    history = model.fit(
        TOKENS, TARGETS, batch_size=2, epochs=2, verbose=0, validation_data=(TOKENS, TARGETS)
    )
    return model, history.history


def test_fit_reports_losses_metrics_and_the_perplexity_of_evaluation(fitted):
    _, history = fitted
    metrics = {f"moe_{name}" for name in METRICS}
    assert set(history) == {
        "loss", "words", *metrics,
        "val_loss", "val_words", "val_perplexity",
        *(f"val_{name}" for name in metrics - {"moe_balancing_loss"}),
    }  # fmt: skip
    assert history["words"] == history["val_words"] == [WORDS, WORDS]
    assert np.all(np.isfinite(list(history.values())))
    np.testing.assert_allclose(np.exp(history["val_loss"]), history["val_perplexity"], rtol=1e-6)


def test_save_and_load(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "m.keras")
    restored = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(restored(TOKENS).numpy(), model(TOKENS).numpy())
    assert restored.count_params() == model.count_params()
    for block, original in zip(restored.blocks, model.blocks, strict=True):
        assert block.layer.get_config() == original.layer.get_config()
        assert (block.dropout.rate, block.seed) == (original.dropout.rate, original.seed)
    assert evaluate(restored) == pytest.approx(evaluate(model), rel=1e-6)
    assert restored.softmax.num_sampled == 5


def test_perplexity_by_hand():
    model = make_model()
    model(TOKENS)
    model.softmax.kernel.assign(np.zeros([V, D]))
    bias = np.full(V, -np.inf)
    bias[[0, 3, 4, 5, 6, 7, 12]] = np.log([1 / 2, 1 / 8, 1 / 16, 1 / 16, 1 / 8, 1 / 16, 1 / 16])
    model.softmax.bias.assign(bias)
    # -log2 p: 3 + 4 + 4 + 1; 3 + 1; 4 + 4 + 1: 25 bits over 9 words, sentence ends included.
    assert evaluate(model) == pytest.approx(2 ** (25 / 9), rel=1e-5)
    assert model.perplexity.count.numpy() == WORDS
    nll = model.negative_log_likelihood(TOKENS, TARGETS).numpy()
    np.testing.assert_allclose(nll / np.log(2), [3, 4, 4, 1, 3, 1, 4, 4, 1], rtol=1e-5)


@pytest.mark.parametrize("groups", [None, 2])
def test_perplexity_does_not_depend_on_the_batches(groups):
    model = make_model(groups=groups)
    model(TOKENS)
    randomise_gates(model)
    whole = evaluate(model)
    assert evaluate(model, batch_size=1) == pytest.approx(whole, rel=1e-6)
    order = [2, 0, 1]
    assert evaluate(model, TOKENS[order], TARGETS[order], 2) == pytest.approx(whole, rel=1e-6)
    one_by_one = [
        model.negative_log_likelihood(TOKENS[i : i + 1, :n], TARGETS[i : i + 1, :n]).numpy()
        for i, n in enumerate([4, 2, 3])
    ]
    assert np.exp(np.concatenate(one_by_one).mean()) == pytest.approx(whole, rel=1e-6)


def widen(x, columns=3, rows=1):
    return np.pad(x, [(0, rows), (0, columns)])


@pytest.mark.parametrize("training", [False, True])
def test_padding_does_not_change_results(training):
    """More padding, as steps and as whole rows: the same loss, gradients and metrics."""
    model = make_model(noise=False)
    model(TOKENS)
    randomise_gates(model)
    results = []
    for tokens, targets in [(TOKENS, TARGETS), (widen(TOKENS), widen(TARGETS))]:
        for metric in model.metrics:
            metric.reset_state()
        with tf.GradientTape() as tape:
            features = model(tokens, training=training)
            loss = model.compute_loss(tokens, targets, features, training=training)
        gradients = [loss]
        if training:
            gradients += tape.gradient(loss, model.trainable_variables)
        metrics = tf.nest.flatten([metric.result() for metric in model.metrics])
        results.append([tf.convert_to_tensor(v).numpy() for v in gradients + metrics])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_batch_of_padding_only_is_finite():
    model = make_model(num_sampled=5)
    padding = np.zeros((2, 3), np.int32)
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.train_on_batch(padding, padding)
    for weight in model.trainable_weights:
        assert np.all(np.isfinite(weight.numpy())), weight.path
    assert evaluate(model, padding, padding) == 1


def test_training_loss_is_the_mean_over_words_plus_the_balancing_losses():
    model = make_model()
    features = model(TOKENS, training=True)
    balancing = sum(model.losses).numpy()
    assert balancing > 0
    loss = model.compute_loss(TOKENS, TARGETS, features, training=True).numpy()
    logits = model.word_logits(features).numpy()
    log_p = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    words = TOKENS != 0
    picked = np.take_along_axis(log_p, TARGETS[..., None], axis=-1)[..., 0]
    assert loss == pytest.approx(-picked[words].mean() + balancing, rel=1e-5)


def test_epoch_loss_counts_every_word_once():
    model = make_model(noise=False)
    model(TOKENS)
    randomise_gates(model)
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    history = model.fit(TOKENS, TARGETS, batch_size=1, verbose=0).history
    nats = model.negative_log_likelihood(TOKENS, TARGETS).numpy().sum()
    balancing = 0
    for row, words in enumerate((4, 2, 3)):
        model(TOKENS[[row]], training=True)
        balancing += words * sum(model.losses).numpy()
    assert balancing > 1e-3 * nats
    assert history["loss"][0] == pytest.approx((nats + balancing) / WORDS, rel=1e-5)


def test_loss_is_summed_in_float64(fitted, tmp_path):
    model, _ = fitted
    model.save(tmp_path / "m.keras")
    for trained in (model, keras.saving.load_model(tmp_path / "m.keras")):
        (tracker,) = (metric for metric in trained.metrics if metric.name == "loss")
        assert [variable.dtype for variable in tracker.variables] == ["float64"] * 2


def test_features_do_not_see_the_future_and_logits_are_float32():
    model = make_model()
    changed = TOKENS.copy()
    changed[0, 2:] = [9, 10]
    a, b = model(TOKENS).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(a[0, :2], b[0, :2])
    assert np.abs(a[0, 2:] - b[0, 2:]).max() > 1e-3
    assert model.word_logits(model(TOKENS)).shape == (3, 4, V)


def test_memorises_three_sentences():
    model = make_model()
    model.optimizer.learning_rate = 0.03
    before = evaluate(model)
    model.fit(TOKENS, TARGETS, epochs=40, verbose=0)
    # First words are unpredictable (3 of 9 predictions, log 3 each): e^(log 3 / 3) = 1.44 at best.
    assert evaluate(model) < 1.8 < before


def test_same_seed_same_training():
    results = []
    for seed in (1, 1, 2):
        model = make_model(num_sampled=5, dropout=0.2, seed=seed)
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        model.fit(TOKENS, TARGETS, batch_size=2, epochs=2, verbose=0)
        results.append(np.concatenate([w.numpy().ravel() for w in model.trainable_weights]))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-3


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_dtypes(policy):
    default = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = make_model(num_sampled=5, dropout=0.1)
        model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
        history = model.fit(TOKENS, TARGETS, verbose=0, validation_data=(TOKENS, TARGETS)).history
    finally:
        keras.config.set_dtype_policy(default)
    assert np.all(np.isfinite(list(history.values())))
    assert model.get_layer("residual_moe").layer.gate.compute_dtype == (
        "float64" if policy == "float64" else "float32"
    )


def lstm(units=512, name=None):
    projection = None if units == 512 else 512
    return ProjectedLSTM(units, projection, return_sequences=True, name=name)


PAPER = {  # Table 7: operations and parameters without embedding and softmax, in millions
    "MoE-4": (lambda: [lstm(), MoE(4, 1024), lstm()], 8.4, 8.4),
    "MoE-32": (lambda: [lstm(), MoE(32, 1024), lstm()], 8.4, 37.8),
    "MoE-256": (lambda: [lstm(), MoE(256, 1024), lstm()], 8.65, 272.9),
    "MoE-256-h": (
        lambda: [lstm(), MoE(256, 1024, gate=NoisyTopK(k=2), groups=16), lstm()], 8.4, 272.9,
    ),
    "MoE-4096-h": (
        lambda: [lstm(), MoE(4096, 1024, gate=NoisyTopK(k=2), groups=16), lstm()], 8.9, 4303.4,
    ),
    "MoE-1-Wide": (lambda: [lstm(), FeedForward(4096), lstm()], 8.4, 8.4),
    "MoE-1-Deep": (lambda: [lstm(), FeedForward(1024, depth=4), lstm()], 8.4, 8.4),
    "4xLSTM-512": (lambda: [lstm(), lstm(), lstm(), lstm()], 8.4, 8.4),
    "LSTM-2048-512": (lambda: [lstm(2048)], 9.4, 9.4),
}  # fmt: skip


@pytest.mark.parametrize("row", PAPER)
def test_operations_and_parameters_of_the_papers_models(row):
    layers, ops, parameters = PAPER[row]
    model = LanguageModel(793_471, 512, residual_blocks(layers()))
    total_ops = sum(block.ops_per_timestep(512) for block in model.blocks)
    assert total_ops / 1e6 == pytest.approx(ops, abs=0.05)
    total_parameters = describe(model)["parameters"]["excluding_embedding_and_softmax"]
    assert total_parameters / 1e6 == pytest.approx(parameters, abs=0.05)
    assert not model.trainable_weights  # the model is not built


def test_feed_forward_blocks_train():
    blocks = residual_blocks([FeedForward(8)], seed=1)
    model = LanguageModel(V, D, blocks)
    model.compile("adam", run_eagerly=True)
    assert np.isfinite(model.train_on_batch(TOKENS, TARGETS, return_dict=True)["loss"])


def test_only_mixture_and_feed_forward_blocks_have_a_sigmoid():
    blocks = residual_blocks([lstm(), MoE(4, 8), FeedForward(8)], dropout=0.3, seed=5)
    assert [block.activation.__name__ for block in blocks] == ["linear", "sigmoid", "sigmoid"]
    assert [block.dropout.rate for block in blocks] == [0.3] * 3
    assert len({block.seed for block in blocks}) == 3


def test_sample_weights_raise():
    model = make_model()
    with pytest.raises(ValueError, match=r"sample_weight must be None"):
        model.fit(TOKENS, TARGETS, sample_weight=np.ones(3), verbose=0)


def test_block_that_changes_the_shape_raises():
    model = LanguageModel(9, 8, [ProjectedLSTM(8, name="lstm")])
    with pytest.raises(ValueError, match=r"lstm returns \(None, 8\) .* return_sequences=True"):
        model.build((None, None))


def tied_model(**options):
    blocks = residual_blocks([FeedForward(5, name="feed_forward")], seed=1)
    model = LanguageModel(V, D, blocks, seed=1, tie_embeddings=True, **options)
    model.compile(keras.optimizers.SGD(0.1))
    model.build((None, None))
    return model


@pytest.mark.parametrize("num_sampled", [None, 5])
def test_tied_embeddings(num_sampled, tmp_path):
    """The embedding's gradient is the sum of those of two matrices with the same values."""
    tied = tied_model(num_sampled=num_sampled, softmax_bias=False)
    blocks = residual_blocks([FeedForward(5, name="feed_forward")], seed=1)
    free = LanguageModel(V, D, blocks, seed=1, num_sampled=num_sampled, softmax_bias=False)
    free.build((None, None))
    embedding, *others = tied.get_weights()
    assert len(others) == 2  # the network's
    free.set_weights([embedding, *others, embedding])
    gradients = []
    for model in (tied, free):
        with tf.GradientTape() as tape:
            loss = model.compute_loss(TOKENS, TARGETS, model(TOKENS, training=True))
        found = tape.gradient(loss, model.trainable_variables)
        gradients.append([loss, *map(tf.convert_to_tensor, found)])
    (loss, both, *actual), (expected_loss, first, *expected, last) = gradients
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    np.testing.assert_allclose(both, first + last, rtol=1e-5, atol=1e-7)
    for gradient, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(gradient, other, rtol=1e-5, atol=1e-7)


def test_tied_embeddings_remain_tied_in_a_file(tmp_path):
    model = tied_model(final_norm="rms", final_norm_epsilon=0.5)
    model.fit(TOKENS, TARGETS, verbose=0)
    model.save(tmp_path / "m.keras")
    restored = keras.saving.load_model(tmp_path / "m.keras")
    assert restored.softmax.kernel is restored.embedding.embeddings
    assert restored.normalization.epsilon == 0.5
    np.testing.assert_array_equal(restored(TOKENS), model(TOKENS))
    assert evaluate(restored) == pytest.approx(evaluate(model), rel=1e-6)
    counts = describe(model)["parameters"]
    assert counts["total"] == model.count_params() == V * D + V + 2 * D * 5 + D
    assert (counts["embedding"], counts["softmax"]) == (V * D, V)  # the matrix counts once
    assert [weight.name for weight in model.softmax.weights] == ["bias"]


def test_the_optimizer_is_built_before_a_step_is_traced():
    # A step that creates variables is traced twice.
    model = make_model()
    model.build((None, None))
    assert not model.optimizer.built
    model.make_train_function()
    assert len(model.optimizer.variables) == 2 + 2 * len(model.trainable_variables)
