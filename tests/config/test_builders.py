"""Models, optimizers, vocabularies and batches built from a config."""

import keras
import numpy as np
import pytest

from tfmoe.config import ConfigError, build_model, build_optimizer, load_config
from tfmoe.data_pipelines import Vocabulary
from tfmoe.tasks import build_batches, build_splits, build_vocabulary

TEXT = """\
model:
  d_model: 8
  dropout: 0.25
  num_sampled: 5
  blocks:
    - {name: lstm, units: 12, projection_units: 8}
    - {name: moe, num_experts: 6, hidden_units: 16, groups: 3, gate: {k: 2, load_weight: 0.5}}
    - {name: feed_forward, hidden_units: 10, depth: 2, activation: gelu}
data:
  name: text
  train: TRAIN
  vocabulary: {size: 6}
  batch_tokens: 12
  max_length: 4
training:
  seed: 7
  optimizer:
    learning_rate: 0.5
    schedule: {name: warmup_inverse_sqrt, warmup_steps: 4}
    global_clip_norm: 2
"""


@pytest.fixture
def load(tmp_path):
    train = tmp_path / "train.txt"
    train.write_text("a b a\na a b c d\n")
    path = tmp_path / "config.yaml"
    path.write_text(TEXT.replace("TRAIN", str(train)))
    return lambda *overrides: load_config(path, overrides)


def test_model(load):
    model = build_model(load())
    assert not model.built
    assert model.vocabulary_size == 6
    assert model.dropout.rate == 0.25
    assert model.softmax.num_sampled == 5
    assert [block.layer.name for block in model.blocks] == ["lstm_0", "moe_1", "feed_forward_2"]
    assert [block.dropout.rate for block in model.blocks] == [0.25] * 3
    lstm, moe, feed_forward = (block.layer for block in model.blocks)
    assert lstm.cell.projection_units == 8
    assert (moe.num_experts, moe.groups, moe.gate.num_selected) == (6, 3, 4)
    assert moe.gate.load_weight == 0.5
    assert feed_forward.depth == 2
    assert feed_forward.activation is keras.activations.gelu
    assert model(np.array([[1, 3], [1, 0]])).shape == (2, 2, 8)


def test_blocks_without_residual_connection(load):
    blocks = build_model(load("model.blocks[0].residual=false")).blocks
    assert [block.residual for block in blocks] == [False, True, True]


def test_options_of_todays_decoders(load):
    attention = "{name: self_attention, num_heads: 2, query_key_norm: rms, sliding_window: 3, "
    attention += "query_key_norm_epsilon: 1e-5, norm: rms, norm_epsilon: 1e-4}"
    options = ("softmax_bias=false", "tie_embeddings=true", "final_norm=rms")
    options += ("final_norm_epsilon=1e-3",)
    model = build_model(load(f"model.blocks[0]={attention}", *(f"model.{x}" for x in options)))
    layer = model.blocks[0].layer
    assert (layer.query_key_norm, layer.query_key_norm_epsilon) == ("rms", 1e-5)
    assert (layer.sliding_window, model.blocks[0].norm_epsilon) == (3, 1e-4)
    assert not model.softmax.use_bias and model.tie_embeddings
    assert model.final_norm_epsilon == 1e-3
    with pytest.raises(ConfigError, match=r"model\.blocks\[0\]\.sliding_window:? must be"):
        load(f"model.blocks[0]={attention}", "model.blocks[0].sliding_window=0")
    for key in ("blocks[0].query_key_norm", "blocks[0].norm", "final_norm"):
        with pytest.raises(ConfigError, match=r"_epsilon:? must be left out without") as error:
            load(
                f"model.blocks[0]={attention}",
                *(f"model.{x}" for x in options),
                f"model.{key}=null",
            )
        assert f"model.{key}_epsilon" in str(error.value)


def test_vocabulary_size(load):
    assert build_model(load(), vocabulary_size=11).vocabulary_size == 11


def test_layer_names_are_the_same_for_every_model(load):
    first, second = build_model(load()), build_model(load())
    assert [b.layer.name for b in first.blocks] == [b.layer.name for b in second.blocks]


def test_model_without_a_vocabulary_size(load):
    with pytest.raises(ConfigError, match=r"data\.vocabulary\.size: is null, so the size of the"):
        build_model(load("data.vocabulary.size=null"))


def test_mixed_precision_stays_in_the_model(load):
    model = build_model(load("training.dtype_policy=mixed_bfloat16"))
    assert keras.config.dtype_policy().name == "float32"
    for layer in (model, *model.blocks, *(block.layer for block in model.blocks)):
        assert layer.dtype_policy.name == "mixed_bfloat16"
    assert model.blocks[1].layer.gate.compute_dtype == "float32"
    assert model(np.array([[1, 3]])).dtype == "bfloat16"


def test_optimizer(load):
    optimizer = build_optimizer(load("training.optimizer.beta_1=0.5"))
    assert isinstance(optimizer, keras.optimizers.Adam)
    assert optimizer.beta_1 == 0.5
    assert optimizer.global_clipnorm == 2
    # 4 steps of warm-up to 0.5: 0.125 in the first step, 0.5·sqrt(4 / 16) in the 16th.
    schedule = optimizer._learning_rate
    np.testing.assert_allclose([schedule(0), schedule(3), schedule(15)], [0.125, 0.5, 0.25])


def test_cosine_learning_rate(load):
    cosine = "{name: cosine_decay, steps: 12, warmup_steps: 4, final_fraction: 0.2}"
    schedule = build_optimizer(load(f"training.optimizer.schedule={cosine}"))._learning_rate
    # 4 steps of warm-up to 0.5; 0.5·(0.2 + 0.8/2) after 4 of the other 8 steps; 0.5·0.2 at the end.
    values = [schedule(step) for step in (0, 2, 4, 8, 12, 20)]
    np.testing.assert_allclose(values, [0, 0.25, 0.5, 0.3, 0.1, 0.1], atol=1e-7)


def test_constant_learning_rate(load):
    optimizer = build_optimizer(load("training.optimizer.schedule={name: constant}"))
    assert float(optimizer.learning_rate) == 0.5


def test_splits_vocabulary_and_batches(load, tmp_path):
    config = load()
    splits = build_splits(config, tmp_path)
    assert (len(splits.train), splits.valid, splits.test) == (1, [], [])
    vocabulary = build_vocabulary(config, {"a": 5, "b": 2, "c": 1, "d": 1})
    assert len(vocabulary) == 6  # three special words, a, b, c
    batches = list(build_batches(config, splits.train, vocabulary, training=False))
    # Rows "a b a </S>", "a a b c" and "<UNK> </S>": 4 + 6 words to predict.
    assert sum(int((inputs != 0).numpy().sum()) for inputs, _ in batches) == 10


def test_vocabulary_from_a_file(load, tmp_path):
    path = tmp_path / "words.txt"
    Vocabulary(["</S>", "<S>", "<UNK>", "x"]).save(path)
    config = load(f"data.vocabulary={{file: {path}}}")
    assert len(build_vocabulary(config)) == 4
    config = load(f"data.vocabulary={{file: {path}, size: 5}}")
    with pytest.raises(ConfigError, match=r"is 5, but .* has 4 words"):
        build_vocabulary(config)


def test_generated_text(load, tmp_path):
    config = load(
        "data.name=grammars",
        "data.symbols=5",
        "data.train_sentences=3",
        "data.valid_sentences=1",
        "data.test_sentences=1",
    )
    splits = build_splits(config.model_copy(), tmp_path / "corpus")
    with open(splits.train[0]) as file:
        assert len(file.readlines()) == 3
