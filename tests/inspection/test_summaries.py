import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tfmoe import data_pipelines
from tfmoe.analysis.operations import describe
from tfmoe.gating import NoisyTopK
from tfmoe.inspection import expert_use, route_batches, use_of_experts
from tfmoe.inspection.summaries import ExpertSummaries, ops_per_word
from tfmoe.layers import AttentionLSTM, FeedForward, MoE
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks

VOCABULARY = data_pipelines.Vocabulary.from_counts({"a|b": 9, "<i>": 5})  # ids 3, 4
SAMPLE = [
    (np.array([[1, 3, 4], [1, 3, 0]], np.int32), np.array([[3, 4, 0], [3, 0, 0]], np.int32)),
    (np.array([[1, 4]], np.int32), np.array([[4, 0]], np.int32)),
]


def language_model(*layers):
    keras.utils.set_random_seed(0)
    model = LanguageModel(5, 3, residual_blocks(layers))
    model.compile(keras.optimizers.SGD(0.25), run_eagerly=True)
    model.build((None, None))
    return model


class Speed(keras.callbacks.Callback):
    """Logs a speed, as `Throughput` does."""

    def on_epoch_end(self, epoch, logs=None):
        logs["words_per_second"] = 100.0


class Uses(keras.callbacks.Callback):
    """Keeps the use of experts after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.uses = [*getattr(self, "uses", ()), *expert_use(self.model, SAMPLE).values()]


def fit(model, batch, callbacks, epochs=2):
    model.fit(*batch, epochs=epochs, callbacks=callbacks, verbose=0, shuffle=False)


def events(directory):
    found = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    found.Reload()
    return {
        tag: [(event.step, event.tensor_proto) for event in found.Tensors(tag)]
        for tag in found.Tags()["tensors"]
    }


def values(events, tag):
    return [float(tf.make_ndarray(tensor)) for _, tensor in events[tag]]


def test_read_back(tmp_path):
    model = language_model(MoE(num_experts=3, hidden_units=2, gate=NoisyTopK(k=2), name="moe"))
    callbacks = [Speed(), Uses(), ExpertSummaries(tmp_path, SAMPLE, VOCABULARY)]
    fit(model, SAMPLE[0], callbacks)
    found = events(tmp_path)
    numbers = (
        "cv_importance", "cv_load", "max_over_mean_load", "max_over_mean_importance",
        "unused_experts", "load_entropy", "gate_entropy", "noise",
    )  # fmt: skip
    assert set(found) == {
        *(f"moe/{name}" for name in numbers),
        *("moe/load_over_mean", "moe/importance_over_mean", "moe/contexts"),
        *(f"training/{name}" for name in ("words_per_second", "flops_per_device", "learning_rate")),
    }
    assert all([step for step, _ in each] == [0, 1] for each in found.values())
    for name in numbers[:-1]:
        expected = [use.summary()[name] for use in callbacks[1].uses]
        np.testing.assert_allclose(values(found, f"moe/{name}"), expected, rtol=1e-5)
    assert values(found, "training/learning_rate") == [0.25, 0.25]
    # 3 gates of 2 matrices of 3 x 3 and 2 experts of 2·3·2: 18 + 24 multiply-adds.
    assert describe(model)["ops_per_timestep"] == 42
    assert values(found, "training/flops_per_device") == [6 * 42 * 100] * 2
    text = found["moe/contexts"][0][1].string_val[0].decode()
    assert text.startswith("| expert | G(x) | context |\n|---|---|---|\n| ")
    assert r"&lt;S\> **&lt;i\>**" in text and r"**a\|b**" in text  # as Markdown: <S> <i>, a|b


def test_noise_at_the_beginning(tmp_path):
    """W_noise is 0 and stays so without learning: softplus(0) = ln 2."""
    model = language_model(MoE(num_experts=3, hidden_units=2, gate=NoisyTopK(k=2), name="moe"))
    model.optimizer.learning_rate = 0.0
    fit(model, SAMPLE[0], [ExpertSummaries(tmp_path, SAMPLE)], epochs=1)
    found = events(tmp_path)
    assert values(found, "moe/noise") == pytest.approx([np.log(2)])
    assert "moe/contexts" not in found  # no vocabulary, no words
    assert values(found, "training/words_per_second")[0] > 0  # by its own clock


def test_a_model_without_mixtures_has_a_speed(tmp_path):
    fit(language_model(FeedForward(2)), SAMPLE[0], [ExpertSummaries(tmp_path, SAMPLE)], epochs=1)
    assert set(events(tmp_path)) == {
        f"training/{name}" for name in ("words_per_second", "flops_per_device", "learning_rate")
    }


def test_translation(tmp_path):
    """A timestep is a token of the source and one of the target: half of the words."""
    keras.utils.set_random_seed(0)
    model = TranslationModel(
        5,
        4,
        residual_blocks([MoE(2, 2, gate=NoisyTopK(k=2), name="in")]),
        residual_blocks([AttentionLSTM(4), MoE(2, 2, gate=NoisyTopK(k=2), name="out")]),
    )
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    model.build((None, None))
    batch = (np.array([[3, 4]], np.int32), np.array([[1, 3, 4]], np.int32)), np.array([[3, 4, 0]])
    fit(model, batch, [Speed(), ExpertSummaries(tmp_path, [batch])], epochs=1)
    found = events(tmp_path)
    assert values(found, "training/flops_per_device") == [
        6 * describe(model)["ops_per_timestep"] * 50
    ]
    assert {"in/noise", "out/noise", "in/load_entropy", "out/load_entropy"} <= set(found)


LEARNING_RATE = "training/learning_rate"
OF_EXPERTS = {
    *("cv_importance", "cv_load", "max_over_mean_load", "max_over_mean_importance"),
    *("unused_experts", "load_entropy", "gate_entropy", "noise"),
    *("load_over_mean", "importance_over_mean"),
}


def test_a_functional_model_of_features(tmp_path):
    """No words, so no speed; and no costs of a model of another make."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input([2, 2, 3])
    features = MoE(num_experts=3, hidden_units=2, gate=NoisyTopK(k=2), name="moe")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(features)))
    model.compile(keras.optimizers.SGD(0.25), "mse")
    x, y = np.random.default_rng(0).standard_normal((4, 2, 2, 3)), np.ones((4, 1))
    summaries = ExpertSummaries(tmp_path, [(x[:2], y[:2]), (x[2:], y[2:])])
    fit(model, (x, y), [summaries])
    found = events(tmp_path)
    assert set(found) == {LEARNING_RATE, *(f"moe/{name}" for name in OF_EXPERTS)}
    use = use_of_experts(route_batches(model, [x])["moe"])
    assert use.load.sum() == 4 * 4 * 2
    for name, value in use.summary().items():
        assert values(found, f"moe/{name}")[-1] == pytest.approx(value, rel=1e-5)
    assert len(found["moe/noise"]) == 2


class Words(keras.Model):
    """Is built by its first batch; says how many words it saw."""

    def __init__(self):
        super().__init__()
        self.embedding = keras.layers.Embedding(5, 3, mask_zero=True)
        self.mixtures = [
            MoE(3, 2, gate=NoisyTopK(k=2, load_weight=0.1), name=name) for name in ("one", "two")
        ]
        self.words = keras.metrics.Sum(name="words")

    def call(self, tokens):
        self.words.update_state(tf.cast(tokens != 0, tf.float32))
        features = self.embedding(tokens)
        for mixture in self.mixtures:
            features = mixture(features)
        return features


@pytest.mark.parametrize("eager", [False, True])
def test_a_subclassed_model_of_words(tmp_path, eager):
    model = Words()
    model.compile(keras.optimizers.SGD(0.25), "mse", run_eagerly=eager)
    tokens = SAMPLE[0][0]
    fit(model, (tokens, np.ones((2, 3, 3))), [ExpertSummaries(tmp_path, SAMPLE, VOCABULARY)])
    found = events(tmp_path)
    of_mixtures = {f"{one}/{name}" for one in ("one", "two") for name in OF_EXPERTS | {"contexts"}}
    assert set(found) == {LEARNING_RATE, "training/words_per_second", *of_mixtures}
    text = found["two/contexts"][0][1].string_val[0].decode()
    assert r"&lt;S\> **&lt;i\>**" in text


def test_words_of_several_inputs(tmp_path):
    """An error comes before the first step; the argument `tokens` helps."""
    names = ("one", "two")
    inputs = {name: keras.Input([3], dtype="int32", name=name) for name in names}
    layers = [MoE(3, 2, gate=NoisyTopK(k=2), name=f"moe_{name}") for name in names]
    features = [
        layer(keras.layers.Embedding(5, 3)(inputs[name]))
        for layer, name in zip(layers, names, strict=True)
    ]
    model = keras.Model(inputs, keras.layers.Add()(features))
    model.compile("sgd", "mse")
    batch = {name: SAMPLE[0][0] for name in names}, np.ones((2, 3, 3))
    with pytest.raises(ValueError, match=r"moe_one sees .*say by tokens="):
        fit(model, batch, [ExpertSummaries(tmp_path / "no", [batch], VOCABULARY)])
    assert int(model.optimizer.iterations) == 0
    summaries = ExpertSummaries(
        tmp_path / "yes", [batch], VOCABULARY, tokens=lambda name, inputs: inputs[name[4:]]
    )
    fit(model, batch, [summaries])
    assert {"moe_one/contexts", "moe_two/contexts"} <= set(events(tmp_path / "yes"))


def test_another_model_without_mixtures(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((2, 1), np.float32)
    fit(model, (x, x), [ExpertSummaries(tmp_path, [x])], epochs=1)
    assert set(events(tmp_path)) == {LEARNING_RATE}


def test_operations_are_not_known_of_every_model():
    assert ops_per_word(language_model(FeedForward(2))) == 2 * 3 * 2
    assert ops_per_word(language_model(keras.layers.Dense(3))) is None
    assert ops_per_word(keras.Sequential([keras.layers.Dense(3)])) is None
