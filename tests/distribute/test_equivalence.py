"""Training on several devices equals training on one device with the same batches."""

import contextlib
import functools
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import MixedStrategy
from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK
from tfmoe.layers import MoE, SelfAttention
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.optimizers import FactoredAdagrad, FactoredAdam, WarmupInverseSqrt

D = 4
ROWS = (8, 4, 8)  # of the batches of an epoch: all replicas get the same number
UNEVEN = [(8, 5), (7, 6), (3, 7), (1, 4)]  # sentences and steps; some batches have < R sentences
TOP_K = NoisyTopK(k=2, noise=False, importance_weight=0.1)
BATCHWISE = Batchwise(k=2, importance_weight=0.1)
CAPACITY = {"capacity_factor": 0.7, "evaluation_capacity_factor": 0.7}


@pytest.fixture(autouse=True)
def float64():
    for dtype in ("float64", "float32"):
        keras.backend.set_floatx(dtype)
        keras.config.set_dtype_policy(dtype)
        if dtype == "float64":
            yield


class Setting(NamedTuple):
    gate: object
    optimizer: object
    num_experts: int = 8
    options: dict = {}  # noqa: RUF012
    num_sampled: int | None = None


SETTINGS = {
    "flat": Setting(TOP_K, lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.05)),
    "groups": Setting(TOP_K, lambda: FactoredAdam(0.01, clipnorm=0.02), options={"groups": 4}),
    "batchwise": Setting(BATCHWISE, lambda: FactoredAdagrad(0.01, global_clipnorm=0.05)),
    # Plain descent at rate 1: the change of the weights in a step is the gradient.
    "groups_batchwise": Setting(
        BATCHWISE, lambda: keras.optimizers.SGD(1.0), options={"groups": 4}
    ),
    "nine_experts": Setting(
        TOP_K,
        lambda: keras.optimizers.Adam(
            WarmupInverseSqrt(0.01, warmup_steps=2),
            global_clipnorm=0.05,
            gradient_accumulation_steps=2,
            weight_decay=0.1,
        ),
        num_experts=9,
        options={
            **CAPACITY, "recompute": True, "use_bias": True, "gated": True, "activation": "silu",
            "shared_experts": 2, "shared_gate": True,
        },
    ),
    # Two of four devices hold no experts.
    "two_groups": Setting(
        TOP_K,
        lambda: keras.optimizers.Adam(0.01, clipnorm=0.05),
        options={**CAPACITY, "groups": 2, "use_bias": True, "recompute": True},
    ),
    "batchwise_with_capacity": Setting(
        BATCHWISE,
        lambda: keras.optimizers.SGD(1.0),
        options={"capacity_factor": 0.5, "evaluation_capacity_factor": 0.5},
    ),
    "outer_batchwise_with_capacity": Setting(
        Hierarchical(4, BATCHWISE, TOP_K), lambda: keras.optimizers.SGD(1.0), options=CAPACITY
    ),
    "choice": Setting(
        TOP_K,
        lambda: keras.optimizers.SGD(1.0),
        options={**CAPACITY, "capacity_priority": "choice"},
    ),
    "weight": Setting(
        TOP_K,
        lambda: keras.optimizers.SGD(1.0),
        options={**CAPACITY, "groups": 4, "capacity_priority": "weight"},
    ),
}  # fmt: skip
LANGUAGE_SETTINGS = {
    "flat": Setting(TOP_K, lambda: FactoredAdam(0.01, clipnorm=0.02)),
    "groups": Setting(
        TOP_K,
        lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.05),
        options={**CAPACITY, "groups": 4},
    ),
    "batchwise": Setting(BATCHWISE, lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.05)),
    # Where the gradients of a word cancel out, Adam would turn rounding errors into full steps.
    "groups_batchwise": Setting(
        BATCHWISE, lambda: keras.optimizers.SGD(1.0), options={"groups": 4}, num_sampled=5
    ),
}


# `tests/conformance` and `test_capacity` cover most of these in `make test`.
SLOW = {
    "groups_batchwise", "batchwise_with_capacity", "outer_batchwise_with_capacity", "choice",
}  # fmt: skip


def mark_slow(settings):
    """The names of settings as test parameters, with the slow ones marked."""
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in settings
    ]


class Result(NamedTuple):
    history: dict
    weights: list  # before the first step and after every step
    evaluation: dict
    predictions: np.ndarray | None


class Recorder(keras.callbacks.Callback):
    """The weights before training and after every step."""

    def on_train_begin(self, logs=None):
        self.weights = [self.model.get_weights()]

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


def scope(replicas):
    if replicas is None:
        return contextlib.nullcontext()
    return MixedStrategy([f"CPU:{i}" for i in range(replicas)]).scope()


def dataset(batches):
    """A dataset of known length: Keras runs part of an additional step if the end is unexpected."""
    signature = tuple(
        tf.TensorSpec([None, D if index == 0 else 2], array.dtype)
        if array.dtype == np.float64
        else tf.TensorSpec([None, None], array.dtype)
        for index, array in enumerate(batches[0])
    )
    data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    return data.apply(tf.data.experimental.assert_cardinality(len(batches)))


def train(model, batches):
    recorder = Recorder()
    history = model.fit(batches, verbose=0, shuffle=False, callbacks=[recorder]).history
    return history, recorder.weights, model.evaluate(batches, verbose=0, return_dict=True)


@functools.cache
def regression(setting, replicas, predict=False):
    """The `Result` of a model with a mixture and a plain loss, in float64.

    `None` replicas means no strategy.
    """
    gate, optimizer, num_experts, options, _ = SETTINGS[setting]
    keras.utils.set_random_seed(3)
    with scope(replicas):
        inputs = keras.Input([D])
        x = keras.layers.Dense(D)(inputs)
        x = x + MoE(num_experts, 5, gate=gate, name="moe", **options)(x)
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        model.compile(optimizer(), "mse")
        model.optimizer.build(model.trainable_variables)  # else `fit` traces a step twice
    rng = np.random.default_rng(0)
    batches = [(rng.standard_normal((n, D)), rng.standard_normal((n, 2))) for n in ROWS]
    trained = train(model, dataset(batches))
    x = batches[0][0][:7]  # batches of 4 and 3 rows
    return Result(*trained, model.predict(x, batch_size=4, verbose=0) if predict else None)


@functools.cache
def language_model(setting, replicas, is_transformer=False):
    """The `Result` of a language model on uneven batches with padding."""
    gate, optimizer, num_experts, options, num_sampled = LANGUAGE_SETTINGS[setting]
    keras.utils.set_random_seed(3)
    with scope(replicas):
        moe = MoE(num_experts, 5, gate=gate, name="moe", **options)
        if is_transformer:
            blocks = residual_blocks([SelfAttention(2), moe], norm="rms", activation=None)
            model = LanguageModel(20, D, blocks, num_sampled=num_sampled, final_norm="layer")
        else:
            model = LanguageModel(20, D, residual_blocks([moe]), num_sampled=num_sampled)
        model.compile(optimizer())
        model.build((None, None))
        model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    batches = []
    for sentences, steps in UNEVEN:
        lengths = rng.integers(1, steps + 1, [sentences, 1])
        real = np.arange(steps) < lengths
        tokens, targets = rng.integers(1, 20, [2, sentences, steps]) * real
        batches.append((tokens.astype(np.int32), targets.astype(np.int32)))
    return Result(*train(model, dataset(batches)), None)


def check_equal(actual, expected, tolerance):
    """Compares losses, metrics and weights. Metrics are float32."""
    for logs, expected_logs in (
        (actual.history, expected.history),
        (actual.evaluation, expected.evaluation),
    ):
        assert set(logs) == set(expected_logs)
        for name, value in expected_logs.items():
            rtol = tolerance if name == "loss" else max(tolerance, 1e-6)
            np.testing.assert_allclose(logs[name], value, rtol, 1e-12, err_msg=name)
    assert len(actual.weights) == len(expected.weights) > 1
    for step, weights in enumerate(zip(actual.weights, expected.weights, strict=True)):
        for a, b in zip(*weights, strict=True):
            np.testing.assert_allclose(a, b, tolerance, tolerance, err_msg=f"after step {step}")
    if expected.predictions is not None:
        np.testing.assert_allclose(actual.predictions, expected.predictions, tolerance, 1e-12)


@pytest.mark.parametrize("replicas", [1, pytest.param(2, marks=pytest.mark.slow), 4])
def test_flat(replicas):
    actual, expected = (regression("flat", n, predict=True) for n in (replicas, None))
    check_equal(actual, expected, 1e-10)
    assert expected.predictions.shape == (7, 2)


@pytest.mark.parametrize(
    ("setting", "replicas"),
    [
        ("groups", 2),
        ("batchwise", 2),
        pytest.param("nine_experts", 2, marks=pytest.mark.slow),
        pytest.param("groups", 4, marks=pytest.mark.slow),
        pytest.param("batchwise", 4, marks=pytest.mark.slow),
        pytest.param("groups_batchwise", 2, marks=pytest.mark.slow),
        pytest.param("groups_batchwise", 4, marks=pytest.mark.slow),
        pytest.param("nine_experts", 4, marks=pytest.mark.slow),
    ],
)
def test_regression(setting, replicas):
    check_equal(regression(setting, replicas), regression(setting, None), 1e-10)


@pytest.mark.parametrize(
    "setting",
    mark_slow(["batchwise_with_capacity", "outer_batchwise_with_capacity", "choice", "weight"]),
)
def test_capacity(setting):
    check_equal(regression(setting, 2), regression(setting, None), 1e-10)


def test_devices_without_a_group():
    check_equal(regression("two_groups", 4), regression("two_groups", None), 1e-10)


@pytest.mark.parametrize(
    ("setting", "replicas"),
    [
        ("flat", 2),
        pytest.param("groups", 2, marks=pytest.mark.slow),
        pytest.param("flat", 4, marks=pytest.mark.slow),
        pytest.param("batchwise", 4, marks=pytest.mark.slow),
        pytest.param("groups_batchwise", 2, marks=pytest.mark.slow),
    ],
)
def test_language_model_on_uneven_batches(setting, replicas):
    result = language_model(setting, replicas)
    check_equal(result, language_model(setting, None), 1e-5)
    perplexity = np.exp(result.evaluation["loss"])
    np.testing.assert_allclose(perplexity, result.evaluation["perplexity"], 1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
def test_transformer_on_uneven_batches(replicas):
    results = [language_model("flat", n, is_transformer=True) for n in (replicas, None)]
    check_equal(*results, 1e-5)


@pytest.mark.parametrize("setting", mark_slow(SETTINGS))
def test_every_weight_is_trained(setting):
    """Otherwise the tests above would compare initial values."""
    steps = regression(setting, None).weights
    assert len(steps) == 1 + len(ROWS)
    for first, last in zip(steps[0], steps[-1], strict=True):
        if np.issubdtype(first.dtype, np.floating):
            assert np.any(first != last)


@pytest.mark.parametrize(
    "setting",
    mark_slow(name for name, setting in SETTINGS.items() if "capacity_factor" in setting.options),
)
def test_capacity_drops_assignments(setting):
    result = regression(setting, None)
    assert 0 < result.history["moe_dropped"][0] < 1 and 0 < result.evaluation["moe_dropped"] < 1
