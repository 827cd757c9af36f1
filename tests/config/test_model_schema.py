"""The section `model`: its keys are the arguments of models and blocks."""

import re

import pytest

from tfmoe.config import Config, ConfigError, build_model, dump_config, load_config
from tfmoe.config.data_schema import DATA_SECTIONS
from tfmoe.config.distribute_schema import STRATEGY_SECTIONS
from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.model_schema import BLOCK_SECTIONS, MODEL_SECTIONS, block_lists
from tfmoe.config.schema import Paper
from tfmoe.config.training_schema import SCHEDULE_SECTIONS, Training
from tfmoe.layers import BLOCKS

LANGUAGE_MODEL = """\
model:
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - {name: moe, num_experts: 4, hidden_units: 16}
data: {name: text, train: "*.txt", vocabulary: {size: 9}}
"""
TRANSLATION = """\
model:
  name: translation
  d_model: 8
  encoder: [{name: lstm, units: 8}, {name: feed_forward, hidden_units: 4}]
  decoder: [{name: attention_lstm, units: 8}, {name: lstm, units: 8}]
data: {name: embedded_translation}
"""


@pytest.fixture
def load(tmp_path):
    def load(text, *overrides):
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return load_config(path, overrides)

    return load


def test_keys():
    assert {name: list(section.model_fields) for name, section in BLOCK_SECTIONS.items()} == {
        "lstm": ["name", "units", "projection_units", "kernel_initializer",
                 "recurrent_initializer", "residual", "norm", "norm_epsilon", "output_activation"],
        "moe": ["name", "num_experts", "hidden_units", "gate", "groups", "depth", "activation",
                "use_bias", "recompute", "capacity_factor", "evaluation_capacity_factor",
                "capacity_priority", "metrics", "kernel_initializer", "gated", "shared_experts",
                "shared_gate", "expert_dropout", "bias_initializer", "kernel_regularizer",
                "bias_regularizer", "kernel_constraint", "bias_constraint", "residual", "norm",
                "norm_epsilon", "output_activation"],
        "feed_forward": ["name", "hidden_units", "depth", "activation", "use_bias",
                         "kernel_initializer", "gated", "residual", "norm",
                         "norm_epsilon", "output_activation"],
        "soft_moe": ["name", "num_experts", "hidden_units", "slots_per_expert", "depth",
                     "activation", "use_bias", "recompute", "metrics", "kernel_initializer",
                     "gated", "expert_dropout", "bias_initializer", "kernel_regularizer",
                     "bias_regularizer", "kernel_constraint", "bias_constraint", "residual",
                     "norm", "norm_epsilon", "output_activation"],
        "attention_lstm": ["name", "units", "projection_units", "attention_units", "attention",
                           "residual", "norm", "norm_epsilon", "output_activation"],
        "self_attention": ["name", "num_heads", "num_key_value_heads", "head_units", "causal",
                           "rotary_base", "use_bias", "kernel_initializer", "query_key_norm",
                           "query_key_norm_epsilon", "sliding_window", "residual", "norm",
                           "norm_epsilon", "output_activation"],
        "moe_lstm": ["name", "num_experts", "units", "gate", "mixture_of", "gate_from",
                     "recompute", "metrics", "kernel_initializer", "kernel_regularizer",
                     "kernel_constraint", "residual", "norm", "norm_epsilon",
                     "output_activation"],
        "cross_attention": ["name", "num_heads", "num_key_value_heads", "head_units", "use_bias",
                            "kernel_initializer", "residual", "norm", "norm_epsilon",
                            "output_activation"],
    }  # fmt: skip
    assert {name: list(section.model_fields) for name, section in MODEL_SECTIONS.items()} == {
        "language_model": ["name", "d_model", "blocks", "dropout", "num_sampled", "final_norm",
                           "final_norm_epsilon", "softmax_bias", "tie_embeddings"],
        "translation": ["name", "d_model", "encoder", "decoder", "dropout", "num_sampled",
                        "final_norm", "decoding"],
    }  # fmt: skip


@pytest.mark.parametrize(
    "sections",
    [
        BLOCK_SECTIONS, *DATA_SECTIONS.values(), GATE_SECTIONS, MODEL_SECTIONS, SCHEDULE_SECTIONS,
        STRATEGY_SECTIONS, {"training": Training, "paper": Paper, "config": Config},
    ],
    ids=["blocks", *DATA_SECTIONS, "gates", "models", "schedules", "strategies", "others"],
)  # fmt: skip
def test_all_keys_are_documented(sections):
    """A line of the docstring begins with the key, or with several keys and this one."""
    for name, section in sections.items():
        entries = re.findall(r"^ +([\w, ]+):", section.__doc__, re.MULTILINE)
        documented = set(re.findall(r"\w+", " ".join(entries)))
        assert section.model_fields.keys() - documented <= {"name"}, name


def test_sections_of_blocks():
    for name, section in BLOCK_SECTIONS.items():
        assert section.made_from.constructor is BLOCKS[name]


def test_lists_of_blocks():
    lists = {name: block_lists(section) for name, section in MODEL_SECTIONS.items()}
    assert lists == {"language_model": ["blocks"], "translation": ["encoder", "decoder"]}


@pytest.mark.parametrize(
    ("written", "mode"),
    [("true", "all"), ("false", None), ("all", "all"), ("summary", "summary"), ("null", None)],
)
def test_metrics_of_blocks(load, written, mode):
    """`true` and `false` are in configs of old runs, which must equal the new ones on resume."""
    config = load(LANGUAGE_MODEL, f"model.blocks[1].metrics={written}")
    assert config.model.blocks[1].metrics == mode
    with pytest.raises(ConfigError, match="metrics"):
        load(LANGUAGE_MODEL, "model.blocks[1].metrics=each")


def test_a_block_has_all_metrics_by_default(load):
    """Tables, plots and `tfmoe doctor` read them."""
    assert load(LANGUAGE_MODEL).model.blocks[1].metrics == "all"
    for name in ("moe", "moe_lstm", "soft_moe"):
        assert BLOCK_SECTIONS[name].model_fields["metrics"].default == "all"


def test_arguments_of_blocks(load):
    config = load(
        LANGUAGE_MODEL,
        "model.blocks[0].recurrent_initializer=zeros",
        "model.blocks[1].metrics=false",
        "model.blocks[1].kernel_initializer=he_normal",
    )
    lstm, moe = (block.layer for block in build_model(config).blocks)
    assert (lstm.rnn.return_sequences, lstm.rnn.return_state) == (True, False)
    assert type(lstm.cell.recurrent_initializer).__name__ == "Zeros"
    assert moe.expert_metrics is None
    assert type(moe.experts.kernel_initializer).__name__ == "HeNormal"


def test_a_transformer(load):
    blocks = (
        "{name: self_attention, num_heads: 4, num_key_value_heads: 2, rotary_base: null, "
        "norm: rms}",
        "{name: moe, num_experts: 4, hidden_units: 16, norm: layer, output_activation: null}",
        "{name: lstm, units: 8, output_activation: tanh}",
    )
    config = load(LANGUAGE_MODEL, f"model.blocks=[{', '.join(blocks)}]", "model.final_norm=rms")
    model = build_model(config)
    assert [(block.norm, block.activation.__name__) for block in model.blocks] == [
        ("rms", "linear"), ("layer", "linear"), (None, "tanh")
    ]  # fmt: skip
    attention = model.blocks[0].layer
    assert (attention.num_key_value_heads, attention.rotary_base) == (2, None)
    assert (attention.causal, model.final_norm) == (True, "rms")
    # The defaults are the paper's.
    plain = build_model(load(LANGUAGE_MODEL))
    assert [(block.norm, block.activation.__name__) for block in plain.blocks] == [
        (None, "linear"), (None, "sigmoid")
    ]  # fmt: skip


def test_a_translation_transformer(load):
    encoder = "[{name: self_attention, num_heads: 2, causal: false}]"
    decoder = "[{name: self_attention, num_heads: 2}, {name: cross_attention, num_heads: 2}]"
    config = load(TRANSLATION, f"model.encoder={encoder}", f"model.decoder={decoder}")
    model = build_model(config)
    assert [block.reads_later for block in model.blocks] == [True, False, False]


def test_translation_model(load, tmp_path):
    config = load(TRANSLATION, "model.dropout=0.5", "model.decoding.beam_size=2")
    model = build_model(config)
    names = [[block.layer.name for block in blocks] for blocks in (model.encoder, model.decoder)]
    assert names == [
        ["encoder_lstm_0", "encoder_feed_forward_1"], ["decoder_attention_lstm_0", "decoder_lstm_1"]
    ]  # fmt: skip
    seeds = [block.dropout.seed for block in (*model.encoder, *model.decoder)]
    assert seeds == [1, 2, 3, 4]
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "blocks[0].kernel_initializer={class_name: Zeros, config: {}}",
            "must be the name of a Keras initializer, such as glorot_uniform, got {'class_name': "
            "'Zeros', 'config': {}}",
        ),
        (
            "blocks[0].recurrent_initializer=ortogonal",
            "must be the name of a Keras initializer, such as glorot_uniform, got 'ortogonal'",
        ),
        ("blocks[0].kernel_initializer=constant", "must be the name of a Keras initializer"),
        (
            "blocks[1].activation=softmax",
            "must be one of relu, gelu, silu, tanh, sigmoid, elu, selu, leaky_relu, relu6, "
            "softplus, softsign, mish, linear, got 'softmax'",
        ),
        ("blocks[1].capacity_priority=first", "must be one of position, choice, weight, got 'firs"),
        ("blocks[1].capacity_factor=0", "must be a number above 0, or null, got 0"),
        ("blocks[1].depth=0", "must be an integer of at least 1, got 0"),
        ("blocks[1].norm=batch", "must be rms or layer, or null, got 'batch'"),
        ("blocks[0].output_activation=x", "must be one of relu, gelu, silu, tanh, sigmoid, elu,"),
        ("final_norm=x", "must be rms or layer, or null, got 'x'"),
        ("blocks[1].groups=x", "must be an integer of at least 1, or null, got 'x'"),
        (
            "blocks[0].return_state=true",
            "unknown key (its value is true); valid keys: name, units, projection_units, "
            "kernel_initializer, recurrent_initializer",
        ),
        (
            "blocks[0].dtype=float64",
            "unknown key (its value is 'float64'); valid keys: name, units, projection_units, "
            "kernel_initializer, recurrent_initializer",
        ),
    ],
)
def test_errors(load, override, message):
    with pytest.raises(ConfigError) as caught:
        load(LANGUAGE_MODEL, f"model.{override}")
    (line,) = str(caught.value).split("\n")
    assert line.startswith(f"--set model.{override}: model.{override.split('=')[0]}: {message}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "decoder=[{name: lstm, units: 8}, {name: lstm, units: 8}]",
            "decoder: must have a block attention_lstm or cross_attention, which attends to the "
            "source; got lstm, lstm",
        ),
        (
            "decoder[1]={name: self_attention, num_heads: 2, causal: false}",
            "decoder[1].causal: the block must not read later positions, which are the words to "
            "predict; set causal: true",
        ),
        (
            "decoder[1]={name: soft_moe, num_experts: 2, hidden_units: 8}",
            "decoder[1].name: the block must not read later positions, which are the words to "
            "predict; use soft_moe in an encoder only",
        ),
        (
            "encoder[1]={name: attention_lstm, units: 8}",
            "encoder[1].name: must be one of lstm, moe, feed_forward, soft_moe, self_attention, "
            "moe_lstm, got "
            "'attention_lstm'",
        ),
        ("decoder[0].attention=add", "decoder[0].attention: must be multiplicative or additive, "),
    ],
)
def test_errors_of_a_translation_model(load, override, message):
    with pytest.raises(ConfigError) as caught:
        load(TRANSLATION, f"model.{override}")
    (line,) = str(caught.value).split("\n")
    assert line.startswith(f"--set model.{override}: model.{message}")
