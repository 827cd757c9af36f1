"""Saving, config round trip, operation counts, invalid arguments."""

import keras
import numpy as np
import pytest
from models.translation.small_model import GATES, SOURCE, TARGET, TARGETS, D, V, make_model

from tfmoe.gating import Batchwise
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM
from tfmoe.models import TranslationModel, residual_blocks


@pytest.mark.parametrize(
    ("gate", "groups"),
    [
        (gate, groups)
        if (index == 0) == (groups is None)
        else pytest.param(gate, groups, marks=pytest.mark.slow)
        for index, gate in enumerate(GATES)
        for groups in (None, 2)
    ],
)
def test_save_and_load(gate, groups, tmp_path):
    model = make_model(gate=gate, groups=groups, num_sampled=5, dropout=0.1, kind="additive")
    model.compile(keras.optimizers.Adam(0.01), run_eagerly=True)
    model.train_on_batch((SOURCE, TARGET), TARGETS)
    model.save(tmp_path / "m.keras")
    restored = keras.saving.load_model(tmp_path / "m.keras", safe_mode=True)
    assert [weight.name for weight in restored.weights] == [weight.name for weight in model.weights]
    for a, b in zip(restored.weights, model.weights, strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy(), err_msg=b.path)
    expected = model((SOURCE, TARGET)).numpy()
    np.testing.assert_array_equal(restored((SOURCE, TARGET)).numpy(), expected)
    assert restored.softmax.num_sampled == 5
    nll = [m.negative_log_likelihood((SOURCE, TARGET), TARGETS) for m in (model, restored)]
    np.testing.assert_allclose(*nll, rtol=1e-6)
    ids = [m.translate(SOURCE, beam_size=2).ids.numpy() for m in (model, restored)]
    np.testing.assert_array_equal(*ids)


def test_config_round_trip():
    model = make_model(num_sampled=5, dropout=0.1, name="translation", kind="additive")
    config = model.get_config()
    for restored in (
        TranslationModel.from_config(config),
        keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model)),
    ):
        assert restored.get_config() == config
        assert (restored.vocabulary_size, restored.d_model, restored.seed) == (V, D, 1)
        assert (restored.softmax.num_sampled, restored.dropout.rate) == (5, 0.1)
        assert (len(restored.encoder), len(restored.decoder)) == (3, 3)
        assert len({block.seed for block in restored.blocks}) == 6
        assert restored.decoder[0].layer.attention.kind == "additive"


def test_operations_of_the_papers_model():
    # 5 LSTMs 47.2M, the context vectors into the decoder's first LSTM 4.2M, 2 mixtures 16.8M; with
    # the softmax's 16.8M the total is 85M, without gates.
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
    assert not model.trainable_weights  # the model is not built


def blocks(*layers):
    return residual_blocks(list(layers))


def lstm():
    return ProjectedLSTM(D, return_sequences=True)


DECODER = "decoder must have a block that attends to the source, such as an AttentionLSTM or "


@pytest.mark.parametrize(
    ("encoder", "decoder", "message"),
    [
        ([], [], DECODER),
        ([lstm], [lstm], DECODER),
        ([lstm], [lambda: FeedForward(8), lstm], DECODER),
        (
            [lambda: AttentionLSTM(D)],
            [lambda: AttentionLSTM(D)],
            r"encoder\[0\] must not attend to a source, .* got residual_attention_lstm",
        ),
    ],
)
def test_invalid_blocks(encoder, decoder, message):
    encoder, decoder = (blocks(*(make() for make in stack)) for stack in (encoder, decoder))
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
def test_invalid_arguments(arguments, message):
    arguments = {"vocabulary_size": V, "d_model": D, **arguments}
    with pytest.raises(ValueError, match=message):
        TranslationModel(encoder=[], decoder=blocks(AttentionLSTM(D)), **arguments)


def test_without_encoder_blocks_the_decoder_attends_to_the_embedding():
    model = TranslationModel(V, D, [], blocks(AttentionLSTM(D)))
    model.compile("adam", run_eagerly=True)
    assert np.isfinite(model.train_on_batch((SOURCE, TARGET), TARGETS, return_dict=True)["loss"])


def test_block_that_changes_the_shape_raises():
    model = TranslationModel(V, D, blocks(lstm()), blocks(AttentionLSTM(D + 1)))
    with pytest.raises(ValueError, match="a block needs a layer that keeps the shape"):
        model.build((None, None))
