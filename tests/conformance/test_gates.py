"""Requirements on every gate in every mixture: training, saving, dtypes, sizes."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.gates import GATES, VARIANTS, gate_options, is_quick, make_mixture

from tfmoe import gating
from tfmoe.analysis.variables import parameters_of
from tfmoe.layers import MoE
from tfmoe.layers.expert_metrics import METRICS

pytestmark = pytest.mark.filterwarnings(
    "ignore:NoisyTopK with k=1", "ignore:ExpertChoice:UserWarning"
)

OPTIONS = {"depth": 2, "use_bias": True, "activation": "tanh", "capacity_factor": 4.0}
EVALUATION_METRICS = {"experts_per_token", "unrouted"}  # hierarchical: in evaluation only
X = np.random.default_rng(0).standard_normal((24, 3, 5)).astype("float32")
Y = np.sin(X[..., :2])


def make_layer(variant, **arguments):
    return make_mixture(variant, **{**OPTIONS, "metrics": "all", **arguments})


def make_model(variant, **arguments):
    inputs = keras.Input([None, 5])
    layer = make_layer(variant, **arguments)
    hidden = layer(inputs, **gate_options(layer, inputs))
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden))


EVALUATION = {name for name in METRICS if name != "balancing_loss"}


def metric_names(names):
    return {f"moe_{name}" for name in names}


def train(model, epochs=2, eagerly=False):
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=eagerly)
    if model.built:
        model.optimizer.build(model.trainable_variables)  # else `fit` traces a step twice
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=True).history


def test_every_gate_is_tested():
    assert set(GATES) == set(gating.GATES)


def variants():
    """All variants; those that are not quick are marked slow."""
    for variant in VARIANTS:
        marks = () if is_quick(variant) else pytest.mark.slow
        yield pytest.param(variant, marks=marks, id="-".join(variant))


@pytest.fixture(scope="module", params=variants())
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def trained(variant):
    keras.utils.set_random_seed(3)
    model = make_model(variant)
    before = [weight.numpy() for weight in model.trainable_weights]
    return model, before, train(model)


def test_config_round_trip(variant):
    layer = make_layer(variant, recompute=True)
    for source in (layer, MoE.from_config(layer.get_config())):
        restored = MoE.from_config(source.get_config())
        assert restored.get_config() == layer.get_config()
        restored = keras.saving.deserialize_keras_object(
            keras.saving.serialize_keras_object(source)
        )
        assert restored.get_config() == layer.get_config()


def test_from_config_of_a_built_layer_does_not_build(variant):
    layer = make_layer(variant)
    layer.build((None, 5))
    assert MoE.from_config(layer.get_config()).trainable_weights == []


def test_fit_trains_every_weight_and_reports_the_metrics(trained):
    model, before, history = trained
    gate = model.get_layer("moe").gate
    gate_metrics = set(gate.METRICS) - (set() if gate.secondary is None else EVALUATION_METRICS)
    assert metric_names({*METRICS, *gate_metrics}) | {"loss"} == set(history)
    for name, values in history.items():
        assert np.all(np.isfinite(values)), name
    assert history["loss"][1] < history["loss"][0]
    for weight, old in zip(model.trainable_weights, before, strict=True):
        assert np.abs(weight.numpy() - old).max() > 0, weight.path


def test_evaluate_returns_the_task_loss(trained):
    model, _, _ = trained
    predicted = model.predict(X, verbose=0)
    result = model.evaluate(X, Y, verbose=0, return_dict=True, batch_size=24)
    assert result["loss"] == pytest.approx(np.mean((predicted - Y) ** 2), rel=1e-5)
    gate_metrics = EVALUATION_METRICS & {*model.get_layer("moe").gate.METRICS}
    assert metric_names({*EVALUATION, *gate_metrics}) | {"loss"} == set(result)
    assert np.all(np.isfinite([*result.values()]))


def test_save_and_load(trained, tmp_path):
    model, _, _ = trained
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras", safe_mode=True)
    np.testing.assert_array_equal(restored(X).numpy(), model(X).numpy())
    assert restored.count_params() == model.count_params()
    assert restored.get_layer("moe").get_config() == model.get_layer("moe").get_config()


def test_weights_file_round_trip(trained, variant, tmp_path):
    model, _, _ = trained
    model.save_weights(tmp_path / "m.weights.h5")
    restored = make_model(variant)
    restored.load_weights(tmp_path / "m.weights.h5")
    np.testing.assert_array_equal(restored(X).numpy(), model(X).numpy())


def test_parameters(trained):
    layer = trained[0].get_layer("moe")
    assert parameters_of(layer, (None, 5)) == sum(
        int(np.prod(weight.shape)) for weight in layer.trainable_weights
    )


def test_mixed_bfloat16(variant):
    model = make_model(variant, dtype="mixed_bfloat16")
    layer = model.get_layer("moe")
    y = layer(X, **gate_options(layer, X))
    assert y.dtype == tf.bfloat16
    assert layer.compute_output_spec(keras.KerasTensor((None, 5))).dtype == "bfloat16"
    routing = layer.route(X[0], **gate_options(layer, X[0]))
    assert routing.assignments.weights.dtype == tf.float32
    assert {total.dtype for total in tf.nest.flatten(routing.sums)} == {tf.float32}
    for weight in layer.trainable_weights:
        assert weight.dtype == "float32"
    history = train(model, epochs=1, eagerly=True)
    assert np.all(np.isfinite([history["loss"], *(history[f"moe_{name}"] for name in METRICS)]))


class Subclassed(keras.Model):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.out = keras.layers.Dense(2)

    def call(self, inputs, training=False):
        return self.out(self.layer(inputs, training=training))


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("subclassed", ("noisy_top_k", "groups")), ("sequential", ("noisy_top_k", "flat"))],
    indirect=["variant"],
)
def test_other_kinds_of_model(kind, variant):
    layer = make_layer(variant)
    if kind == "subclassed":
        model = Subclassed(layer)
    else:
        model = keras.Sequential([layer, keras.layers.Dense(2)])
    history = train(model)
    assert metric_names(METRICS) <= set(history)
    assert history["loss"][1] < history["loss"][0]
    assert model.predict(X, verbose=0).shape == Y.shape


@pytest.mark.parametrize(
    "variant", [("noisy_top_k", "flat"), ("noisy_top_k", "groups")], indirect=True
)
def test_same_seed_same_training(variant):
    results = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        model = make_model(variant)
        train(model, epochs=1, eagerly=True)
        results.append(np.concatenate([w.numpy().ravel() for w in model.trainable_weights]))
    np.testing.assert_array_equal(results[0], results[1])
    assert np.abs(results[0] - results[2]).max() > 1e-3


# A gate inside the loop and before it. A hierarchical gate with the experts of all steps at once.
@pytest.mark.slow
@pytest.mark.parametrize("mixture", ["state", "planned", "at once"])
@pytest.mark.parametrize("name", gating.GATES)
def test_in_a_recurrent_mixture(name, mixture):
    if (name, mixture) in {("hierarchical", "planned"), ("hash", "state")}:
        return  # refused
    layer, x = make_mixture((name, mixture)), tf.random.stateless_normal([6, 4, 5], [1, 2])
    options = gate_options(layer, x)
    layer(x, training=True, **options)  # one token for an expert: below the first thresholds
    with tf.GradientTape() as tape:
        outputs = layer(x, training=True, **options)
        loss = tf.reduce_sum(outputs**2) + sum(layer.losses)
    gradients = tape.gradient(loss, [v.value for v in layer.experts.trainable_variables])
    assert all(np.any(gradient != 0) and np.all(np.isfinite(gradient)) for gradient in gradients)
    if layer.gate.depends_on_batch or layer.gate.token_capacity(training=False) is not None:
        return
    state, steps = layer.initial_state(6), []
    for t in range(4):
        output, state = layer.step(x[:, t], state, **gate_options(layer, x[:, t]))
        steps.append(output)
    np.testing.assert_allclose(np.stack(steps, 1), layer(x, **options), rtol=0, atol=1e-5)
