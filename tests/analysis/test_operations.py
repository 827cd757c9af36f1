import keras
import pytest

from tfmoe.analysis.operations import describe
from tfmoe.config import build_model, load_config
from tfmoe.gating import Batchwise, NoisyTopK, Softmax, Switch
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks

# The paper's Table 7: multiply-adds per token and parameters without embedding and softmax, both in
# millions, and all parameters in billions.
TABLE_7 = {
    "lstm-512-512": (2.4, 2.4, 0.8),
    "lstm-1024-512": (4.7, 4.7, 0.8),
    "lstm-2048-512": (9.4, 9.4, 0.8),
    "4xlstm-512": (8.4, 8.4, 0.8),
    "moe-1-wide": (8.4, 8.4, 0.8),
    "moe-1-deep": (8.4, 8.4, 0.8),
    "moe-4": (8.4, 8.4, 0.8),
    "moe-32": (8.4, 37.8, 0.9),
    "moe-256": (8.6, 272.9, 1.1),
    "moe-256-h": (8.4, 272.9, 1.1),
    "moe-1024-h": (8.5, 1079.0, 1.9),
    "moe-4096-h": (8.9, 4303.4, 5.1),
    "2xlstm-8192-1024": (151.0, 151.0, 1.8),
    "moe-34m": (33.8, 4313.9, 6.0),
    "moe-143m": (142.7, 4371.1, 6.0),
}
# Table 8, the same columns.
TABLE_8 = {
    "4xlstm-512": (8.4, 8.4, 0.1),
    "moe-32": (8.4, 37.8, 0.1),
    "moe-256-h": (8.4, 272.9, 0.4),
    "moe-1024-h": (8.5, 1079.0, 1.2),
    "moe-4096-h": (8.6, 4303.4, 4.4),
    "moe-16384-h": (8.8, 17201.0, 17.3),
    "moe-65536-h": (9.2, 68791.0, 68.9),
    "moe-131072-h": (9.7, 137577.6, 137.7),
}
ROWS = {
    **{f"lm1b/{name}": figures for name, figures in TABLE_7.items()},
    **{f"news100b/{name}": figures for name, figures in TABLE_8.items()},
}
# Figures whose last digit, rounded, differs from the printed one.
DIFFERENCES = {
    # The formula of all other rows gives 8.65.
    ("lm1b/moe-256", 0): 8.650752,
    # 150.994944 in matrices; the biases of two LSTMs of 8192 units are 0.065536. (MoE-143M includes
    # its biases: 4371.02 without, 4371.05 with them, printed as 4371.1.)
    ("lm1b/2xlstm-8192-1024", 1): 151.06048,
    # The sum of the paper's own figures, 4313.9M and 2 · 793471 · 1024, is 5.94 too.
    ("lm1b/moe-34m", 2): 5.939704703,
}


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_tables_7_and_8(name):
    config = load_config(name)
    counts = describe(build_model(config))
    computed = (
        counts["ops_per_timestep"] / 1e6,
        counts["parameters"]["excluding_embedding_and_softmax"] / 1e6,
        counts["parameters"]["total"] / 1e9,
    )
    for column, (value, printed) in enumerate(zip(computed, ROWS[name], strict=True)):
        if (name, column) in DIFFERENCES:
            assert value == pytest.approx(DIFFERENCES[name, column], abs=1e-9)
            assert abs(value - printed) < 0.061
        else:
            assert round(value, 1) == printed
    paper = config.paper
    assert (
        paper.ops_per_timestep_millions,
        paper.parameters_millions,
        paper.total_billions,
    ) == ROWS[name]


def language_model(*layers):
    return LanguageModel(11, 4, residual_blocks(layers))


def test_by_hand():
    moe = MoE(6, 5, gate=NoisyTopK(k=2), name="moe")
    counts = describe(language_model(ProjectedLSTM(8, 4, return_sequences=True, name="lstm"), moe))
    # LSTM: 4·(4 + 4)·8 + 8·4 = 288, and 32 biases. Experts 2·4·5 = 40 each, two of six per token;
    # gates 2·4·6 = 48.
    assert counts == {
        "ops_per_timestep": 288 + 80 + 48,
        "ops_by_layer": {"lstm": 288, "moe": 128},
        "ops_of_softmax": 0,
        "parameters": {
            "total": 44 + 320 + 288 + 55,
            "excluding_embedding_and_softmax": 320 + 288,
            "experts": 240,
            "embedding": 44,
            "softmax": 55,
            "by_layer": {"lstm": 320, "moe": 288},
        },
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda: [lstm(4)],
        lambda: [lstm(8, 4), FeedForward(6, depth=3), FeedForward(6, use_bias=True)],
        lambda: [MoE(6, 5, depth=2, use_bias=True, gate=NoisyTopK(k=2)), lstm(4)],
        lambda: [MoE(6, 5, groups=3, gate=NoisyTopK(k=2, noise=False))],
        lambda: [MoE(6, 5, groups=2, gate=Softmax()), MoE(3, 2, gate=Switch())],
    ],
)
def test_parameters_equal_those_of_the_built_model(make):
    model = language_model(*make())
    counts = describe(model)
    model.build((None, None))
    assert model.count_params() == counts["parameters"]["total"]
    assert describe(model) == counts
    for block, count in zip(model.blocks, counts["parameters"]["by_layer"].values(), strict=True):
        assert block.count_params() == count


def lstm(*widths, **kwargs):
    return ProjectedLSTM(*widths, return_sequences=True, **kwargs)


def translation_model(encoder, decoder):
    return TranslationModel(11, 4, residual_blocks(encoder), residual_blocks(decoder))


def test_translation_by_hand():
    counts = describe(
        translation_model(
            [lstm(4, name="lstm"), MoE(6, 5, gate=Batchwise(k=2), name="moe")],
            [AttentionLSTM(8, 4, attention_units=3, name="attention_lstm")],
        )
    )
    # LSTM: 4·(4 + 4)·4, and 16 biases. Two of six experts of 2·4·5 per token; the gate's matrix 4·6
    # and 6 thresholds do not count as operations here. Decoder: 4·(4 + 4 + 4)·8 + 8·4, 32 biases,
    # and the attention's (4 + 4)·3 + 3. Softmax 4·11, and 11 biases; embedding 4·11.
    assert counts == {
        "ops_per_timestep": 128 + 80 + 416 + 44,
        "ops_by_layer": {"lstm": 128, "moe": 80, "attention_lstm": 416},
        "ops_of_softmax": 44,
        "parameters": {
            "total": 44 + 144 + 270 + 475 + 55,
            "excluding_embedding_and_softmax": 144 + 270 + 475,
            "experts": 240,
            "embedding": 44,
            "softmax": 55,
            "by_layer": {"lstm": 144, "moe": 270, "attention_lstm": 475},
        },
    }


@pytest.mark.parametrize(
    "mixture",
    [
        lambda: MoE(6, 5, gate=Batchwise(k=2)),
        lambda: MoE(12, 5, groups=3, use_bias=True, gate=Batchwise(k=2)),
        lambda: MoE(12, 5, groups=2, gate=NoisyTopK(k=2)),
    ],
)
@pytest.mark.parametrize(
    "attention",
    [
        lambda: AttentionLSTM(4),
        lambda: AttentionLSTM(8, 4, attention_units=3, attention="additive"),
    ],
)
def test_translation_parameters_equal_those_of_the_built_model(mixture, attention):
    model = translation_model([lstm(8, 4), mixture()], [attention(), mixture(), lstm(4)])
    counts = describe(model)
    model.build((None, None))
    assert model.count_params() == counts["parameters"]["total"]
    assert describe(model) == counts
    for block, count in zip(model.blocks, counts["parameters"]["by_layer"].values(), strict=True):
        assert block.count_params() == count


@pytest.mark.parametrize(
    ("name", "ops"),
    [
        # 5 LSTMs of 4·1024·2048 + 2048·512; context matrix 4·512·2048; 2 mixtures of 4 experts of
        # 2·512·2048; softmax 512·32768: 47.2, 4.2, 16.8 and 16.8 million.
        ("wmt14/en-fr-moe-2048", 47_185_920 + 4_194_304 + 16_777_216 + 16_777_216),
        # 2 mixtures of 2 experts of 2·512·8192.
        ("multilingual/moe-multi", 47_185_920 + 4_194_304 + 33_554_432 + 16_777_216),
    ],
)
def test_operations_of_the_papers_translation_models(name, ops):
    config = load_config(name)
    counts = describe(build_model(config))
    assert counts["ops_per_timestep"] == ops
    assert round(ops / 1e6) == config.paper.ops_per_timestep_millions
    assert round(counts["parameters"]["total"] / 1e9, 1) == config.paper.total_billions == 8.7


def test_positions_by_block():
    model = language_model(FeedForward(3))
    assert (model.positions_by_block(7), model.predicting_positions(7)) == ([7], 7)
    model = translation_model([lstm(4)], [AttentionLSTM(4), lstm(4)])
    assert (model.positions_by_block(7), model.predicting_positions(7)) == ([4, 4, 4], 4)


def test_layers_with_equal_names():
    counts = describe(language_model(FeedForward(3, name="same"), FeedForward(5, name="same")))
    assert counts["ops_by_layer"] == {"same": 24, "same (block 1)": 40}


def test_describe_does_not_build_the_model():
    model = build_model(load_config("lm1b/moe-4096-h"))
    describe(model)
    assert not model.built and not model.weights
    assert isinstance(model, keras.Model)


def test_frozen_layers_are_counted():
    def make():
        blocks = residual_blocks([MoE(4, 8, name="moe"), FeedForward(8, name="dense")])
        return LanguageModel(50, 8, blocks)

    expected = describe(make())
    for freeze in (lambda model: model, lambda model: model.blocks[0]):
        model = make()
        freeze(model).trainable = False
        assert describe(model) == expected
        model.build((None, None))
        assert describe(model) == expected


def test_two_classes_with_one_name_raise():
    def block(width):
        class Mine(FeedForward):
            pass

        return Mine(width, name=f"mine_{width}")

    model = LanguageModel(50, 8, residual_blocks([block(2), block(3)]))
    with pytest.raises(ValueError, match="two classes named Mine: rename one"):
        describe(model)
