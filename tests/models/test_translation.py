import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM
from tfmoe.layers.expert_metrics import METRICS
from tfmoe.models import TranslationModel, residual_blocks
from tfmoe.models.beam_search import tile

V, D = 13, 6
# Sources of 3, 1 and 4 subwords; targets of 3, 2 and 1, whose ends are predicted too. Id 0 is both
# padding (inputs) and </s> (targets), 1 is <s>.
SOURCE = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [7, 8, 9, 10]], np.int32)
TARGET = np.array([[1, 3, 4, 5], [1, 6, 12, 0], [1, 7, 0, 0]], np.int32)
TARGETS = np.array([[3, 4, 5, 0], [6, 12, 0, 0], [7, 0, 0, 0]], np.int32)
SOURCE_WORDS, WORDS = 3 + 1 + 4, 4 + 3 + 2
REAL = TARGET != 0
GATES = {
    "batchwise": lambda: Batchwise(k=2),
    "noisy_top_k": lambda: NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1),
}


def make_model(gate="batchwise", groups=None, kind="multiplicative", seed=1, **arguments):
    keras.utils.set_random_seed(seed)

    def lstm(name, units=D, projection=None):
        return ProjectedLSTM(units, projection, return_sequences=True, name=name)

    def moe(name):
        return MoE(4, 8, gate=GATES[gate](), groups=groups, name=name)

    dropout = arguments.get("dropout", 0.0)
    encoder = [lstm("encoder_1"), moe("encoder_moe"), lstm("encoder_2", 9, D)]
    decoder = [AttentionLSTM(8, D, attention=kind, name="decoder_1"), moe("decoder_moe"), lstm("d")]
    return TranslationModel(
        V,
        D,
        residual_blocks(encoder, dropout, seed),
        residual_blocks(decoder, dropout, seed + 3),
        seed=seed,
        **arguments,
    )


def randomised(**arguments):
    """With weights so large that what should not depend on something would show it."""
    model = make_model(**arguments)
    model.compile("adam")
    model.build((None, None))
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.3, 0.1, weight.shape) - np.log(weight.shape[-1])
        elif "expert" not in weight.path and "gate_kernel" not in weight.path:
            values *= 0.5
        weight.assign(values)
    return model


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def evaluate(model, source=SOURCE, target=TARGET, targets=TARGETS, batch_size=32):
    return model.evaluate(
        (source, target), targets, batch_size=batch_size, verbose=0, return_dict=True
    )


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_features_do_not_depend_on_padding_nor_on_the_rest_of_the_batch(gate, groups):
    model = randomised(gate=gate, groups=groups)
    whole = model((SOURCE, TARGET)).numpy()
    assert whole.shape == (3, 4, D)
    padded = model((np.pad(SOURCE, [(0, 2), (0, 3)]), np.pad(TARGET, [(0, 2), (0, 2)]))).numpy()
    np.testing.assert_allclose(padded[:3, :4][REAL], whole[REAL], rtol=0, atol=1e-5)
    for row, (sources, targets) in enumerate([(3, 4), (1, 3), (4, 2)]):
        alone = model((SOURCE[row : row + 1, :sources], TARGET[row : row + 1, :targets])).numpy()
        np.testing.assert_allclose(alone[0], whole[row, :targets], rtol=0, atol=1e-5)
    order = [2, 0, 1]
    turned = model((SOURCE[order], TARGET[order])).numpy()
    np.testing.assert_allclose(turned[REAL[order]], whole[order][REAL[order]], rtol=0, atol=1e-5)
    # In training the experts of Batchwise choose among the whole batch.
    if gate == "batchwise":
        training = model((SOURCE, TARGET), training=True).numpy()
        assert np.abs(training - whole)[REAL].max() > 1e-3


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
        for gradient in gradients:  # None: noise that is off does not train its kernel
            results[-1].append(tf.convert_to_tensor(0.0 if gradient is None else gradient))
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("gate", GATES)
def test_features_do_not_see_the_future_but_all_of_the_source(gate):
    model = randomised(gate=gate)
    before = model((SOURCE, TARGET)).numpy()
    changed = TARGET.copy()
    changed[0, 2:] = [9, 10]
    after = model((SOURCE, changed)).numpy()
    np.testing.assert_allclose(after[0, :2], before[0, :2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(after[1:][REAL[1:]], before[1:][REAL[1:]], rtol=0, atol=1e-6)
    assert np.abs(after[0, 2:] - before[0, 2:]).max(axis=1).min() > 1e-3
    changed = SOURCE.copy()
    changed[2, 3] = 11  # the last one
    after = model((changed, TARGET)).numpy()
    assert np.abs(after[2, :2] - before[2, :2]).max(axis=1).min() > 1e-3
    np.testing.assert_allclose(after[:2][REAL[:2]], before[:2][REAL[:2]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_decoding_step_repeated_gives_what_the_call_gives(gate, groups, kind):
    model = randomised(gate=gate, groups=groups, kind=kind)
    expected = log_softmax(model.word_logits(model((SOURCE, TARGET))).numpy())
    expected_attention = model.attention(SOURCE, TARGET).numpy()
    step, states = model.decoding_step(*model.encode(SOURCE)), model.initial_states(3)
    for t in range(TARGET.shape[1]):
        log_p, attention, states = step(tf.constant(TARGET[:, t]), states)
        assert (log_p.shape, attention.shape) == ((3, V), (3, 4))
        assert (log_p.dtype, attention.dtype) == (tf.float32, tf.float32)
        on = REAL[:, t]
        np.testing.assert_allclose(log_p.numpy()[on], expected[on, t], rtol=0, atol=1e-4)
        np.testing.assert_allclose(
            attention.numpy()[on], expected_attention[on, t], rtol=0, atol=1e-5
        )
    assert len(states) == 3 and states[1] == ()  # the mixture has none
    assert not expected_attention[np.broadcast_to((SOURCE == 0)[:, None], (3, 4, 4))].any()


def test_beam_search_scores_what_the_call_scores():
    model = randomised()
    found = model.translate(SOURCE, beam_size=3, num_best=3, coverage_penalty=0.0)
    ids, lengths = found.ids.numpy(), found.lengths.numpy()
    limits = 2 * (SOURCE != 0).sum(axis=1) + 10
    for row in range(3):
        for rank in range(3):
            n = lengths[row, rank]
            target = np.array([[1, *ids[row, rank, :n]]], np.int32)
            ended = n < limits[row]
            outputs = np.append(target[0, 1:], [0] if ended else []).astype(int)
            features = model((SOURCE[row : row + 1], target[:, : len(outputs)]))
            log_p = log_softmax(model.word_logits(features).numpy())[0]
            expected = log_p[np.arange(len(outputs)), outputs].sum()
            got = found.log_probabilities.numpy()[row, rank]
            assert got == pytest.approx(expected, abs=1e-3)
            length_penalty = ((5 + len(outputs)) / 6) ** 0.2
            assert found.scores.numpy()[row, rank] == pytest.approx(got / length_penalty, rel=1e-5)


def test_translations_of_mixed_bfloat16():
    standard = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = make_model(num_sampled=5, dropout=0.1)
    finally:
        keras.config.set_dtype_policy(standard)
    model.compile("adam", run_eagerly=True)
    history = model.fit((SOURCE, TARGET), TARGETS, verbose=0).history
    assert np.isfinite(history["loss"][0])
    assert model((SOURCE, TARGET)).dtype == tf.bfloat16
    assert np.isfinite(evaluate(model)["perplexity"])
    assert model.attention(SOURCE, TARGET).dtype == tf.float32
    # Outside of the model's call nothing is cast by Keras.
    expected = log_softmax(model.word_logits(model((SOURCE, TARGET))).numpy())
    step, states = model.decoding_step(*model.encode(SOURCE)), model.initial_states(3)
    for t in range(TARGET.shape[1]):
        log_p, _, states = step(tf.constant(TARGET[:, t]), states)
        on = REAL[:, t]
        np.testing.assert_allclose(log_p.numpy()[on], expected[on, t], rtol=0, atol=0.2)
    found = model.translate(SOURCE, beam_size=2)
    assert np.all(np.isfinite(found.scores.numpy()))


def test_float64():
    standard = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    try:
        model = make_model(num_sampled=5, dropout=0.1)
    finally:
        keras.config.set_dtype_policy(standard)
    model.compile("adam", run_eagerly=True)
    assert np.isfinite(model.fit((SOURCE, TARGET), TARGETS, verbose=0).history["loss"][0])
    assert np.isfinite(evaluate(model)["perplexity"])
    assert np.all(np.isfinite(model.translate(SOURCE, beam_size=2).scores.numpy()))


def with_known_probabilities(model):
    """All positions predict alike."""
    model.softmax.kernel.assign(np.zeros([V, D]))
    bias = np.full(V, -np.inf)
    bias[[0, 3, 4, 5, 6, 7, 12]] = np.log([1 / 2, 1 / 8, 1 / 16, 1 / 16, 1 / 8, 1 / 16, 1 / 16])
    model.softmax.bias.assign(bias)


def test_perplexity_by_hand():
    model = make_model()
    model.compile("adam")
    model.build((None, None))
    with_known_probabilities(model)
    # -log2 p: 3 + 4 + 4 + 1; 3 + 4 + 1; 4 + 1: 25 bits over 9 subwords, the three ends counted.
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
def test_training_loss_is_the_mean_over_target_words_plus_the_losses_of_the_gates(gate):
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
def test_gradients_reach_every_weight_but_thresholds_by_the_task(gate, groups, num_sampled):
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


def test_source_and_target_share_the_embedding():
    model = randomised()
    with_words = [weight for weight in model.trainable_weights if V in weight.shape]
    assert [tuple(weight.shape) for weight in with_words] == [(V, D), (V, D), (V,)]
    before = model((SOURCE, TARGET)).numpy()
    changed = model.embedding.embeddings.numpy()
    changed[11] += 1  # occurs nowhere
    model.embedding.embeddings.assign(changed)
    np.testing.assert_allclose(model((SOURCE, TARGET)).numpy()[REAL], before[REAL], atol=1e-6)
    changed[6] += 1  # the source and a target word of sentence 1
    model.embedding.embeddings.assign(changed)
    after = model((SOURCE, TARGET)).numpy()
    differ = np.abs(after - before).max(axis=2) > 1e-4
    assert differ[1, :3].all() and not differ[[0, 2]][REAL[[0, 2]]].any()


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
    assert np.all(np.isfinite(history["loss"] + history["val_perplexity"]))


def reversals(number, seed):
    """Sequences of 2 to 5 of the symbols 3 to 7, and the same backwards."""
    rng = np.random.default_rng(seed)
    source, target, targets = (np.zeros((number, length), np.int32) for length in (5, 6, 6))
    for row, n in enumerate(rng.integers(2, 6, number)):
        source[row, :n] = rng.integers(3, 8, n)
        target[row, : n + 1] = [1, *source[row, :n][::-1]]
        targets[row, : n + 1] = [*source[row, :n][::-1], 0]
    return (source, target), targets


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
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, 400)))
    inputs, targets = reversals(128 * 100, seed=0)
    model.fit(inputs, targets, batch_size=128, epochs=4, verbose=0)
    (source, _), expected = reversals(200, seed=1)
    found = model.translate(source, beam_size=1, length_penalty=0.0, coverage_penalty=0.0)
    width = expected.shape[1]
    assert found.ids.shape[1:] == (1, 2 * 5 + 10)
    ids = np.pad(found.ids.numpy()[:, 0], [(0, 0), (0, width)])
    right = (ids[:, :width] == expected).all(axis=1) & ~ids[:, width:].any(axis=1)
    assert right.mean() > 0.95
    lengths = (expected != 0).sum(axis=1)
    np.testing.assert_array_equal(found.lengths.numpy()[right, 0], lengths[right])
    # A beam, which does not depend on the rest of the batch.
    beam = model.translate(source, beam_size=3)
    alone = model.translate(source[:1], beam_size=3)
    n = int(alone.lengths[0, 0])
    np.testing.assert_array_equal(alone.ids[0, 0, :n], beam.ids[0, 0, :n])


def test_greedy_translation_is_the_best_next_subword_at_each_step():
    model = randomised()
    found = model.translate(
        SOURCE, beam_size=1, length_penalty=0.0, coverage_penalty=0.0, max_length=6
    )
    for row in range(3):
        written = [1]
        while len(written) <= 6:
            features = model((SOURCE[row : row + 1], np.array([written], np.int32)))
            best = int(np.argmax(model.word_logits(features).numpy()[0, -1]))
            if best == 0:
                break
            written.append(best)
        n = int(found.lengths[row, 0])
        assert found.ids.numpy()[row, 0, :n].tolist() == written[1:]


def test_attention_of_a_translation_is_that_of_the_call():
    model = randomised()
    found = model.translate(SOURCE, beam_size=2, keep_attention=True)
    for row in range(3):
        n = int(found.lengths[row, 0])
        target = np.array([[1, *found.ids.numpy()[row, 0, :n]]], np.int32)
        expected = model.attention(SOURCE[row : row + 1], target).numpy()[0]
        ended = n < 2 * np.count_nonzero(SOURCE[row]) + 10
        steps = n + 1 if ended else n
        actual = found.attention.numpy()[row, 0]
        np.testing.assert_allclose(actual[:steps], expected[:steps], rtol=0, atol=1e-5)
        assert not actual[steps:].any()


def test_default_length_is_twice_the_sources_and_ten():
    model = make_model()
    model.build((None, None))
    with_known_probabilities(model)
    model.softmax.bias[0].assign(-np.inf)  # nothing ends
    found = model.translate(SOURCE, beam_size=2)
    np.testing.assert_array_equal(found.lengths.numpy()[:, 0], [16, 12, 18])


def test_states_of_rows_are_tiled():
    model = randomised()
    memory, mask = tile(model.encode(SOURCE), 2)
    assert (memory.shape, mask.shape) == ((6, 4, D), (6, 4))
    shapes = tf.nest.map_structure(lambda state: tuple(state.shape), model.initial_states(6))
    assert shapes == [[(6, D), (6, 8)], (), [(6, D), (6, D)]]


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_save_and_load(gate, groups, tmp_path):
    model = make_model(gate=gate, groups=groups, num_sampled=5, dropout=0.1, kind="additive")
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.train_on_batch((SOURCE, TARGET), TARGETS)
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True)
    weights, restored = model.weights, again.weights
    assert [each.name for each in restored] == [each.name for each in weights]
    for a, b in zip(restored, weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)
    expected = model((SOURCE, TARGET)).numpy()
    np.testing.assert_array_equal(again((SOURCE, TARGET)).numpy(), expected)
    assert again.softmax.num_sampled == 5
    nll = [each.negative_log_likelihood((SOURCE, TARGET), TARGETS) for each in (model, again)]
    np.testing.assert_allclose(*nll, rtol=1e-6)
    ids = [each.translate(SOURCE, beam_size=2).ids.numpy() for each in (model, again)]
    np.testing.assert_array_equal(*ids)


def test_config_round_trip():
    model = make_model(num_sampled=5, dropout=0.1, name="translation", kind="additive")
    config = model.get_config()
    for again in (
        TranslationModel.from_config(config),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)),
    ):
        assert again.get_config() == config
        assert (again.vocabulary_size, again.d_model, again.seed) == (V, D, 1)
        assert (again.softmax.num_sampled, again.dropout.rate) == (5, 0.1)
        assert (len(again.encoder), len(again.decoder)) == (3, 3)
        assert len({block.seed for block in again.blocks}) == 6
        assert again.decoder[0].layer.attention.kind == "additive"


def test_operations_of_the_papers_model():
    # 5 LSTMs 47.2M, the context into the first one of the decoder 4.2M, 2 mixtures 16.8M; with the
    # softmax's 16.8M 85M, gates aside.
    def lstm():
        return ProjectedLSTM(2048, 512, return_sequences=True)

    def moe():
        return MoE(2048, 2048, gate=Batchwise(k=2), groups=16)

    encoder = residual_blocks([lstm(), lstm(), moe(), lstm()])
    decoder = residual_blocks([AttentionLSTM(2048, 512), moe(), lstm()])
    model = TranslationModel(32_000, 512, encoder, decoder)
    gates = sum(
        block.layer.gate.ops_per_timestep(512)
        for block in model.blocks
        if isinstance(block.layer, MoE)
    )
    counted = sum(block.ops_per_timestep(512) for block in model.blocks) - gates
    assert counted / 1e6 == pytest.approx(47.2 + 4.2 + 16.8, abs=0.1)
    assert (counted + 512 * 32_768) / 1e6 == pytest.approx(85, abs=0.5)
    assert not model.trainable_weights  # nothing was built


def blocks(*layers):
    return residual_blocks(list(layers))


def lstm():
    return ProjectedLSTM(D, return_sequences=True)


DECODER = "decoder must have an AttentionLSTM in its first block, and only there"


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ([], [], DECODER),
        ([lstm], [lstm], DECODER),
        ([lstm], [lambda: FeedForward(8), lambda: AttentionLSTM(D)], DECODER),
        ([lstm], [lambda: AttentionLSTM(D), lambda: AttentionLSTM(D)], DECODER),
        (
            [lambda: AttentionLSTM(D)],
            [lambda: AttentionLSTM(D)],
            "encoder must not have an AttentionLSTM",
        ),
    ],
)
def test_wrong_blocks(encoder, decoder, message):
    encoder, decoder = (blocks(*(make() for make in each)) for each in (encoder, decoder))
    with pytest.raises(ValueError, match=message):
        TranslationModel(V, D, encoder, decoder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 0}, "must be .*(got|Received: input_dim=)"),
        ({"num_sampled": 0}, "num_sampled must be an integer of at least 1, got 0"),
        ({"dropout": 1.5}, "1.5"),
    ],
)
def test_wrong_arguments(arguments, message):
    arguments = {"vocabulary_size": V, "d_model": D, **arguments}
    with pytest.raises(ValueError, match=message):
        TranslationModel(encoder=[], decoder=blocks(AttentionLSTM(D)), **arguments)


def test_no_encoder_blocks_attend_to_the_embedding():
    model = TranslationModel(V, D, [], blocks(AttentionLSTM(D)))
    model.compile("adam", run_eagerly=True)
    assert np.isfinite(model.train_on_batch((SOURCE, TARGET), TARGETS, return_dict=True)["loss"])


def test_a_width_that_does_not_fit():
    model = TranslationModel(V, D, blocks(lstm()), blocks(AttentionLSTM(D + 1)))
    with pytest.raises(ValueError, match="a residual connection needs a layer that keeps the"):
        model.build((None, None))


def test_batch_of_nothing_but_padding_is_finite():
    model = make_model(num_sampled=5)
    model.compile("adam", run_eagerly=True)
    nothing = np.zeros((2, 3), np.int32)
    model.train_on_batch((nothing, nothing), nothing)
    for weight in model.trainable_weights:
        assert np.all(np.isfinite(weight.numpy())), weight.path
    assert evaluate(model, nothing, nothing, nothing)["perplexity"] == 1


def test_sample_weights_are_refused():
    model = make_model()
    model.compile("adam")
    with pytest.raises(ValueError, match=r"sample_weight must be None"):
        model.fit((SOURCE, TARGET), TARGETS, sample_weight=np.ones(3), verbose=0)
