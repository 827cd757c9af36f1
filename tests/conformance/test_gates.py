"""Requirements on every gate in every mixture: the checks of `tfmoe.testing`, and what our gates
and layers promise beyond them.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.gates import GATES, VARIANTS, case_of, is_quick, make_mixture, parameters

from tfmoe import gating, testing
from tfmoe.layers.expert_metrics import METRICS
from tfmoe.testing.gate_case import NETWORK, X, Y, fit
from tfmoe.testing.mixtures import gate_options
from tfmoe.testing.training_checks import metric_names

pytestmark = pytest.mark.filterwarnings(
    "ignore:NoisyTopK with k=1", "ignore:ExpertChoice:UserWarning"
)

EVALUATION_METRICS = {"experts_per_token", "unrouted"}  # hierarchical: in evaluation only
TRAINING_METRICS = {"balancing_loss"}  # in training only
CHECKS = testing.GATE_CHECKS
OF_TRAINED = ("training", "metrics", "evaluation", "keras_file", "weights_file", "parameters")
BY_FORMULA = ("routing", "dense_formula", "function", "padding", "order")
QUICK = [("noisy_top_k", "flat")]  # of the checks by formula
# Of other tests in this folder.
COMPILED = {"static_shapes", "xla", "portable"}
ON_DEVICES = {"updates", "two_devices", "four_devices"}


def test_every_gate_is_tested():
    assert set(GATES) == set(gating.GATES)


def test_every_check_runs():
    here = {"configuration", "mixed_precision", "saved_model", "reproducible"}
    assert here | {*OF_TRAINED, *BY_FORMULA} | COMPILED | ON_DEVICES == {*CHECKS}


@pytest.fixture(scope="module", params=parameters(VARIANTS, is_quick))
def variant(request):
    return request.param


@pytest.fixture(scope="module")
def gate_case(variant):
    return case_of(variant)


@pytest.fixture(scope="module")
def trained(gate_case):
    assert gate_case.trained.history  # the graphs of a fixture live as long as it
    return gate_case


@pytest.mark.parametrize("check", ["configuration", "mixed_precision"])
def test_check(check, gate_case):
    CHECKS[check](gate_case)


@pytest.mark.parametrize("check", BY_FORMULA)
@pytest.mark.parametrize("variant", parameters(VARIANTS, QUICK.__contains__))
def test_check_by_formula(check, variant):
    CHECKS[check](case_of(variant))


@pytest.mark.parametrize("check", OF_TRAINED)
def test_check_of_the_trained_model(check, trained):
    CHECKS[check](trained)


@pytest.mark.parametrize("variant", parameters(VARIANTS, QUICK.__contains__), indirect=True)
def test_saved_model(trained):
    CHECKS["saved_model"](trained)


def test_metrics_of_fit_and_evaluate(trained):
    """Exactly these: `tfmoe.testing` accepts a gate that measures in training or evaluation."""
    gate = trained.trained.model.get_layer("moe").gate
    gate_metrics = set(gate.METRICS) - (set() if gate.secondary is None else EVALUATION_METRICS)
    assert metric_names({*METRICS, *gate_metrics}) | {"loss"} == set(trained.trained.history)
    gate_metrics = EVALUATION_METRICS & {*gate.METRICS}
    measured = {*METRICS, *gate_metrics} - TRAINING_METRICS
    assert metric_names(measured) | {"loss"} == set(trained.evaluated)


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
)
def test_other_kinds_of_model(kind, variant):
    layer = case_of(variant).make_layer(**NETWORK)
    if kind == "subclassed":
        model = Subclassed(layer)
    else:
        model = keras.Sequential([layer, keras.layers.Dense(2)])
    history = fit(model)
    assert metric_names(METRICS) <= set(history)
    assert history["loss"][1] < history["loss"][0]
    assert model.predict(X, verbose=0).shape == Y.shape


@pytest.mark.parametrize("variant", [("noisy_top_k", "flat"), ("noisy_top_k", "groups")])
def test_same_seed_same_training(variant):
    CHECKS["reproducible"](case_of(variant))


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
