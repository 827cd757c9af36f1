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
    """Logs `words_per_second`, like `Throughput`."""

    def on_epoch_end(self, epoch, logs=None):
        logs["words_per_second"] = 100.0


class Uses(keras.callbacks.Callback):
    """Records the use of experts after each epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.uses = [*getattr(self, "uses", ()), *expert_use(self.model, SAMPLE).values()]


def fit(model, batch, callbacks, epochs=2):
    model.fit(*batch, epochs=epochs, callbacks=callbacks, verbose=0, shuffle=False)


def read_events(directory):
    accumulator = EventAccumulator(str(directory), size_guidance={"tensors": 0})
    accumulator.Reload()
    return {
        tag: [(event.step, event.tensor_proto) for event in accumulator.Tensors(tag)]
        for tag in accumulator.Tags()["tensors"]
    }


def values(events, tag):
    return [float(tf.make_ndarray(tensor)) for _, tensor in events[tag]]


def test_contents_of_event_files(tmp_path):
    model = language_model(MoE(num_experts=3, hidden_units=2, gate=NoisyTopK(k=2), name="moe"))
    callbacks = [Speed(), Uses(), ExpertSummaries(tmp_path, SAMPLE, VOCABULARY)]
    fit(model, SAMPLE[0], callbacks)
    events = read_events(tmp_path)
    measures = (
        "cv_importance", "cv_load", "max_over_mean_load", "max_over_mean_importance",
        "unused_experts", "load_entropy", "gate_entropy", "noise",
    )  # fmt: skip
    assert set(events) == {
        *(f"moe/{name}" for name in measures),
        *("moe/load_over_mean", "moe/importance_over_mean", "moe/contexts"),
        *(f"training/{name}" for name in ("words_per_second", "flops_per_device", "learning_rate")),
    }
    assert all([step for step, _ in tag_events] == [0, 1] for tag_events in events.values())
    for name in measures[:-1]:
        expected = [use.summary()[name] for use in callbacks[1].uses]
        np.testing.assert_allclose(values(events, f"moe/{name}"), expected, rtol=1e-5)
    assert values(events, "training/learning_rate") == [0.25, 0.25]
    # 2 gate matrices of 3 x 3 and 2 experts of 2·3·2: 18 + 24 multiply-adds.
    assert describe(model)["ops_per_timestep"] == 42
    assert values(events, "training/flops_per_device") == [6 * 42 * 100] * 2
    text = events["moe/contexts"][0][1].string_val[0].decode()
    assert text.startswith("| expert | G(x) | context |\n|---|---|---|\n| ")
    assert r"&lt;S\> **&lt;i\>**" in text and r"**a\|b**" in text  # Markdown for <S> <i>, a|b


def test_initial_noise(tmp_path):
    """W_noise is initialised to 0 and not trained: softplus(0) = ln 2."""
    model = language_model(MoE(num_experts=3, hidden_units=2, gate=NoisyTopK(k=2), name="moe"))
    model.optimizer.learning_rate = 0.0
    fit(model, SAMPLE[0], [ExpertSummaries(tmp_path, SAMPLE)], epochs=1)
    events = read_events(tmp_path)
    assert values(events, "moe/noise") == pytest.approx([np.log(2)])
    assert "moe/contexts" not in events  # without a vocabulary
    assert values(events, "training/words_per_second")[0] > 0  # measured by the callback


def test_speed_of_a_model_without_mixtures(tmp_path):
    fit(language_model(FeedForward(2)), SAMPLE[0], [ExpertSummaries(tmp_path, SAMPLE)], epochs=1)
    assert set(read_events(tmp_path)) == {
        f"training/{name}" for name in ("words_per_second", "flops_per_device", "learning_rate")
    }


def test_translation(tmp_path):
    """A timestep is a source token and a target token: two words."""
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
    events = read_events(tmp_path)
    assert values(events, "training/flops_per_device") == [
        6 * describe(model)["ops_per_timestep"] * 50
    ]
    assert {"in/noise", "out/noise", "in/load_entropy", "out/load_entropy"} <= set(events)


LEARNING_RATE = "training/learning_rate"
MIXTURE_TAGS = {
    *("cv_importance", "cv_load", "max_over_mean_load", "max_over_mean_importance"),
    *("unused_experts", "load_entropy", "gate_entropy", "noise"),
    *("load_over_mean", "importance_over_mean"),
}


def test_functional_model_of_features(tmp_path):
    """Without words there is no speed, and operations are unknown for other models."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input([2, 2, 3])
    features = MoE(num_experts=3, hidden_units=2, gate=NoisyTopK(k=2), name="moe")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Flatten()(features)))
    model.compile(keras.optimizers.SGD(0.25), "mse")
    x, y = np.random.default_rng(0).standard_normal((4, 2, 2, 3)), np.ones((4, 1))
    summaries = ExpertSummaries(tmp_path, [(x[:2], y[:2]), (x[2:], y[2:])])
    fit(model, (x, y), [summaries])
    events = read_events(tmp_path)
    assert set(events) == {LEARNING_RATE, *(f"moe/{name}" for name in MIXTURE_TAGS)}
    use = use_of_experts(route_batches(model, [x])["moe"])
    assert use.load.sum() == 4 * 4 * 2
    for name, value in use.summary().items():
        assert values(events, f"moe/{name}")[-1] == pytest.approx(value, rel=1e-5)
    assert len(events["moe/noise"]) == 2


class Words(keras.Model):
    """A model that is built by its first batch, with a metric `words`."""

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
def test_subclassed_model_of_words(tmp_path, eager):
    model = Words()
    model.compile(keras.optimizers.SGD(0.25), "mse", run_eagerly=eager)
    tokens = SAMPLE[0][0]
    fit(model, (tokens, np.ones((2, 3, 3))), [ExpertSummaries(tmp_path, SAMPLE, VOCABULARY)])
    events = read_events(tmp_path)
    tags = {f"{layer}/{name}" for layer in ("one", "two") for name in MIXTURE_TAGS | {"contexts"}}
    assert set(events) == {LEARNING_RATE, "training/words_per_second", *tags}
    text = events["two/contexts"][0][1].string_val[0].decode()
    assert r"&lt;S\> **&lt;i\>**" in text


def test_several_inputs_of_token_ids(tmp_path):
    """Without the argument `tokens`, an error is raised before the first step."""
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
    with pytest.raises(ValueError, match=r"moe_one processes .*pass tokens="):
        fit(model, batch, [ExpertSummaries(tmp_path / "no", [batch], VOCABULARY)])
    assert int(model.optimizer.iterations) == 0
    summaries = ExpertSummaries(
        tmp_path / "yes", [batch], VOCABULARY, tokens=lambda name, inputs: inputs[name[4:]]
    )
    fit(model, batch, [summaries])
    assert {"moe_one/contexts", "moe_two/contexts"} <= set(read_events(tmp_path / "yes"))


def test_sequential_model_without_mixtures(tmp_path):
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((2, 1), np.float32)
    fit(model, (x, x), [ExpertSummaries(tmp_path, [x])], epochs=1)
    assert set(read_events(tmp_path)) == {LEARNING_RATE}


def test_ops_per_word_of_other_models_is_none():
    assert ops_per_word(language_model(FeedForward(2))) == 2 * 3 * 2
    assert ops_per_word(language_model(keras.layers.Dense(3))) is None
    assert ops_per_word(keras.Sequential([keras.layers.Dense(3)])) is None
