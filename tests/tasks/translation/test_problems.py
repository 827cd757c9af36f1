"""Errors of translation configs."""

import pytest
from tasks.translation.small_corpora import EMBEDDED, ONE, SEVERAL, load

from tfmoe.config import ConfigError, load_config


def problems(data, *overrides):
    with pytest.raises(ConfigError) as caught:
        load(data, *overrides)
    return str(caught.value).split("\n")


@pytest.mark.parametrize(
    ("data", "overrides", "message"),
    [
        (
            "data: {name: text, train: x}\n",
            [],
            "config.yaml:11: data.name: must be one of parallel, json_lines, parquet, huggingface, "
            "tfds, wmt14, embedded_translation for model.name=translation, got text",
        ),
        (
            "data: {name: grammars}\n",
            [],
            "config.yaml:11: data.name: must be one of parallel, json_lines, parquet, huggingface, "
            "tfds, wmt14, embedded_translation for model.name=translation, got grammars",
        ),
        (
            ONE,
            ["data.source_language=null"],
            "--set data.source_language=null: data.source_language: is missing; or give "
            "the key directions for several",
        ),
        (
            ONE,
            ["data.train=[]"],
            "--set data.train=[]: data.train: is missing; or give the key directions for several",
        ),
        *(
            (
                SEVERAL,
                [f"data.{key}=x"],
                f"--set data.{key}=x: data.{key}: must not be given beside directions, which have "
                "their own",
            )
            for key in ("train", "valid", "test", "source_language", "target_language")
        ),
        (
            SEVERAL,
            ["data.directions[2].weight=0"],
            "--set data.directions[2].weight=0: data.directions[2].weight: must be a number "
            "above 0, got 0",
        ),
        (
            SEVERAL,
            ["data.directions[0].train=[]"],
            "--set data.directions[0].train=[]: data.directions[0].train: must be a list of at "
            "least one item, got []",
        ),
        *(
            (
                EMBEDDED,
                [f"data.pairs={pairs}"],
                f"--set data.pairs={pairs}: data.pairs[{index}]: must be two "
                "different languages of en, fr, de, es, pt, ja, ko, such as en-fr, each pair "
                f"once; got '{got}'",
            )
            for pairs, index, got in [
                ("[en-xx]", 0, "en-xx"),
                ("[en-fr, fr-fr]", 1, "fr-fr"),
                ("[en-fr, en-fr]", 1, "en-fr"),
                ("[enfr]", 0, "enfr"),
                ("[en-fr-de]", 0, "en-fr-de"),
            ]
        ),
        (
            EMBEDDED,
            ["data.pairs=[]"],
            "--set data.pairs=[]: data.pairs: must be a list of at least one item, got []",
        ),
        (
            ONE,
            ["model.decoder=[{name: lstm, units: 8}]"],
            "--set model.decoder=[{name: lstm, units: 8}]: model.decoder: must have a block "
            "attention_lstm or cross_attention, which attends to the source; got lstm",
        ),
        (
            ONE,
            ["model.encoder[0].name=attention_lstm"],
            "--set model.encoder[0].name=attention_lstm: model.encoder[0].name: must be one of "
            "lstm, moe, feed_forward, soft_moe, self_attention, moe_lstm, got "
            "'attention_lstm'",
        ),
        (
            ONE,
            ["model.encoder[1].gate.k=5"],
            "--set model.encoder[1].gate.k=5: model.encoder[1].gate.k: must be at most 4, the "
            "number of experts (at the first level of a hierarchical mixture, of groups), got k=5",
        ),
        (
            ONE,
            ["model.encoder[1].groups=4"],
            "config.yaml:6: model.encoder[1].gate.k: must be at most 1, the number of experts (at "
            "the first level of a hierarchical mixture, of groups), got k=2",
        ),
        (
            ONE,
            ["model.decoder[0].projection_units=null"],
            "config.yaml:8: model.decoder[0].units: the block's output has width 12, but must have "
            "the width of its input, model.d_model=8; set projection_units: 8",
        ),
        (
            ONE,
            ["model.decoder[0].attention=dot"],
            "--set model.decoder[0].attention=dot: model.decoder[0].attention: must be "
            "multiplicative or additive, got 'dot'",
        ),
        (
            ONE,
            ["model.decoding.beam_size=0"],
            "--set model.decoding.beam_size=0: model.decoding.beam_size: must be an integer of at "
            "least 1, got 0",
        ),
        (
            ONE,
            ["data.vocabulary.size=4"],
            "--set data.vocabulary.size=4: data.vocabulary.size: must be an integer of at least "
            "5, or null, got 4",
        ),
        (ONE, ["model.decoder=[]"], "--set model.decoder=[]: model.decoder: must be a list of at"),
        (ONE, ["model.encoder=[]"], "--set model.encoder=[]: model.encoder: must be a list of at"),
    ],
)
def test_problems(data, overrides, message):
    (line,) = problems(data, *overrides)
    assert line.startswith(message)


def test_no_languages_at_all():
    lines = problems("data: {name: parallel, train: train}\n")
    assert [line.split(": ")[1] for line in lines] == [
        "data.source_language", "data.target_language",
    ]  # fmt: skip
    assert all("is missing; or give the key directions for several" in line for line in lines)


def test_parallel_text_for_a_language_model():
    with open("config.yaml", "w") as file:
        file.write("model: {d_model: 8, blocks: [{name: lstm, units: 8}]}\n" + ONE)
    with pytest.raises(ConfigError) as caught:
        load_config("config.yaml")
    (line,) = str(caught.value).split("\n")
    assert "data.name: must be one of text, json_lines, parquet, huggingface, tfds, lm1b" in line
    assert line.endswith("got parallel")
