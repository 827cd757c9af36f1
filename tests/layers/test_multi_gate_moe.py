"""`MultiGateMoE` by hand, against the dense formula, and against a `MoE` for each task."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from conformance.gates import AS_LEVEL, GATES
from layers.small_task_mixtures import PLE, D, E, X, expert_outputs, random_layer

from tfmoe import gating
from tfmoe.gating import NoisyTopK, Softmax, Switch
from tfmoe.inspection import mixtures_of, route_batches
from tfmoe.layers import MoE, MultiGateMoE
from tfmoe.testing.mixtures import draw_from_tokens

# Gates that read features.
TOP_2 = {"name": "noisy_top_k", "k": 2, "noise": False}


def test_by_hand():
    """Experts 3·x and 5·x, for x = 1. The gate of a gives the weights 3/4 and 1/4, that of b 1/5
    and 4/5: 3/4·3 + 1/4·5 = 7/2, and 1/5·3 + 4/5·5 = 23/5.
    """
    layer = MultiGateMoE(["a", "b"], 2, 1, dtype="float64")
    layer.build((None, 1))
    first, second = layer.experts.kernels
    first.assign([[[1.0]], [[1]]])
    second.assign([[[3.0]], [[5]]])
    layer.mixtures[0].gate.gate_kernel.assign([[np.log(3), 0]])
    layer.mixtures[1].gate.gate_kernel.assign([[0, np.log(4)]])
    a, b = layer(np.array([[1.0]]))
    np.testing.assert_allclose([a[0, 0], b[0, 0]], [7 / 2, 23 / 5], rtol=1e-12)


def softmax_over(logits, experts, k=None):
    """Dense gate values `[T, E]`: softmax over the k largest logits of some experts."""
    if k is not None:
        logits = tf.where(logits >= tf.sort(logits, axis=-1)[:, -k, None], logits, -np.inf)
    to_all = np.eye(E)[experts]
    return tf.nn.softmax(logits) @ to_all


def dense(layer, inputs):
    """The formula with every expert for every token; `inputs` one for each expert's index."""
    outputs = [expert_outputs(layer, x) for x in inputs]
    reads = layer.expert_inputs or [0] * E
    outputs = tf.stack([outputs[reads[i]][:, i] for i in range(E)], axis=1)
    results = []
    for j, mixture in enumerate(layer.mixtures):
        logits = inputs[j if layer.expert_inputs else 0] @ mixture.gate.gate_kernel
        experts = layer.task_experts[j] if layer.task_experts else range(E)
        weights = softmax_over(logits, list(experts), getattr(mixture.gate, "k", None))
        results.append(tf.einsum("te,ted->td", weights, outputs))
    return results


def values_and_gradients(function, layer, inputs):
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = function(inputs)
        total = sum(tf.reduce_sum(tf.sin(y) * (1 + j)) for j, y in enumerate(outputs))
    gradients = tape.gradient(total, [*inputs, *layer.trainable_variables])
    return [*outputs, *map(tf.convert_to_tensor, gradients)]


SETTINGS = {
    "MMoE": {},
    "three tasks, k = 2": {"tasks": 3, "gate": TOP_2},
    "different gates": {"gate": [Softmax(), TOP_2]},
    "CGC": {"task_experts": PLE["task_experts"][:2]},
    "PLE": {"tasks": ["a", "b", "shared"], **PLE},
    "PLE, k = 2": {"tasks": ["a", "b", "shared"], "gate": TOP_2, **PLE},
    "last level of PLE": {
        "task_experts": PLE["task_experts"][:2],
        "expert_inputs": PLE["expert_inputs"],
    },
    "recompute": {"gate": TOP_2, "recompute": True},
}


@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_dense_formula(options):
    layer = random_layer(**options)
    inputs = [X, X + 1, np.sin(X)] if layer.expert_inputs else [X]

    def sparse(inputs):
        return layer(inputs if layer.expert_inputs else inputs[0], training=True)

    actual = values_and_gradients(sparse, layer, inputs)
    # A gate with noise has a second matrix.
    expected = values_and_gradients(lambda inputs: dense(layer, inputs), layer, inputs)
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
        assert np.abs(b).max() > 1e-3


class Limited(Softmax):
    """Each expert accepts half of the tokens."""

    def token_capacity(self, training):
        return 0.5 * self.num_experts


# Draws depend on the token only, not on the layer.
@pytest.mark.parametrize("training", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("name", [*AS_LEVEL, "limited"])
def test_each_task_is_a_mixture(name, training):
    """Outputs, losses and metrics of every gate."""
    gate = Limited() if name == "limited" else GATES[name]
    layer = random_layer(gate=gate)
    outputs = []
    for mixture in layer.mixtures:
        moe = MoE(E, 7, gate=gate, metrics="all", name=mixture.name, dtype="float64")
        moe.build((None, D))
        weights = [*mixture.gate.trainable_weights, *layer.experts.weights]
        for weight, value in zip(moe.trainable_weights, weights, strict=True):
            weight.assign(value)
        for each in (mixture, moe):
            draw_from_tokens(each)
        outputs.append((moe(X, training=training), moe.losses, moe.expert_metrics))
    actual = layer(X, training=training)
    assert len(layer.losses) == sum(len(losses) for _, losses, _ in outputs)
    for y, loss, mixture, (expected, losses, metrics) in zip(
        actual, layer.losses or [None] * 2, layer.mixtures, outputs, strict=True
    ):
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
        if losses:
            assert float(loss) == pytest.approx(float(losses[0]), rel=1e-10)
        assert mixture.expert_metrics.result() == metrics.result()


def test_gates_that_read_other_inputs():
    layer = MultiGateMoE(2, E, 7, name="moe", dtype="float64")
    v = np.random.default_rng(2).standard_normal((len(X), 3))
    routings = layer.route(X, gate_inputs=v)
    outputs = layer(X, gate_inputs=v)
    for mixture, routing, y in zip(layer.mixtures, routings, outputs, strict=True):
        weights = tf.nn.softmax(v @ mixture.gate.gate_kernel)
        np.testing.assert_allclose(routing.importance, tf.reduce_sum(weights, 0), rtol=1e-12)
        expected = tf.einsum("te,ted->td", weights, expert_outputs(layer, X))
        np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)


class Fixed(gating.Gate):
    """The expert with the token's id."""

    num_selected = 1
    needs_token_ids = True

    def route(self, inputs, training=False, groups=None):
        weights = tf.ones([tf.size(inputs), 1])
        return self.routing_of_tokens(inputs[:, None], weights, groups)


def test_a_gate_that_reads_token_ids():
    layer = random_layer(gate=["softmax", Fixed()])
    ids = np.arange(len(X)) % E
    _, y = layer(X, gate_inputs=ids)
    expected = expert_outputs(layer, X).numpy()[np.arange(len(X)), ids]
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-12)
    with pytest.raises(
        ValueError, match="gate_inputs of moe_b are missing: its gate, Fixed, needs"
    ):
        layer(X)


class Counted:
    """ReLU that counts its rows."""

    rows = 0

    def __call__(self, hidden):
        self.rows += hidden.shape[0]
        return tf.nn.relu(hidden)


@pytest.mark.parametrize("options", [{"tasks": 3, "gate": TOP_2}, {"tasks": 3}], ids=["k=2", "all"])
def test_an_expert_computes_a_token_once(options):
    counted = Counted()
    layer = random_layer(activation=counted, **options)
    layer(X)
    pairs = set()
    for routing in layer.route(X):
        tokens, experts, _ = routing.assignments.by_token()
        pairs |= set(zip(tokens.numpy().tolist(), experts.numpy().tolist(), strict=True))
    assert counted.rows == len(pairs)
    selected = sum(mixture.gate.num_selected for mixture in layer.mixtures) * len(X)
    assert len(X) * 2 < len(pairs) < selected


def test_tasks_with_equal_gates_cost_one_evaluation():
    counted = Counted()
    layer = random_layer(gate=TOP_2, activation=counted)
    layer.mixtures[1].gate.gate_kernel.assign(layer.mixtures[0].gate.gate_kernel)
    a, b = layer(X)
    assert counted.rows == 2 * len(X)
    np.testing.assert_array_equal(a, b)


def test_padding():
    layer = random_layer(gate=TOP_2, metrics=False)
    x = X[:8].reshape(2, 4, D)
    mask = np.array([[True, True, False, False], [True, True, True, False]])
    for y, expected in zip(layer(x, mask=mask), layer(x[mask]), strict=True):
        assert not np.any(y[~mask])
        np.testing.assert_allclose(y[mask], expected, rtol=1e-12)
    assert layer.metrics == []


def test_no_tokens():
    layer = random_layer(gate=TOP_2)
    assert [y.shape for y in layer(X[:0], training=True)] == [(0, D), (0, D)]


def test_in_a_model():
    gate = NoisyTopK(k=2, load_weight=0.1)
    inputs = keras.Input([D])
    a, b = MultiGateMoE(["a", "b"], E, 5, gate=gate, metrics="all", name="moe")(inputs)
    model = keras.Model(inputs, [a, b])
    model.compile("sgd", ["mse", "mse"], run_eagerly=True)
    logs = model.fit(X, [X, X], verbose=0).history
    assert {"moe_a_cv_load", "moe_b_cv_load", "moe_a_dropped"} <= set(logs)
    assert list(mixtures_of(model)) == ["moe_a", "moe_b"]
    routed = route_batches(model, [X])
    for name, routing in zip(routed, model.get_layer("moe").route(X), strict=True):
        np.testing.assert_array_equal(
            np.sort(routed[name].experts), np.sort(routing.assignments.experts())
        )
        assert routed[name].num_experts == E


def test_operations():
    layer = random_layer(tasks=2, gate=TOP_2)
    # Up to four experts of D·7 + 7·D, and two gates with D·E.
    assert layer.ops_per_timestep(D) == 4 * 2 * D * 7 + 2 * D * E
    assert random_layer(tasks=2).ops_per_timestep(D) == E * 2 * D * 7 + 2 * D * E


def test_gates_of_tasks_have_different_seeds():
    layer = MultiGateMoE(2, E, 5, gate=NoisyTopK(k=2, seed=3))
    seeds = [mixture.gate.seed for mixture in layer.mixtures]
    assert seeds[0] == 3 and seeds[1] != 3
    copy = MultiGateMoE.from_config(layer.get_config())
    assert [mixture.gate.seed for mixture in copy.mixtures] == seeds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": 0}, "tasks must be an integer of at least 1, got 0"),
        (
            {"tasks": ["a", "a"]},
            r"tasks must be different names, or their number, got \['a', 'a'\]",
        ),
        ({"gate": ["softmax"]}, "gate must have an item for each of 2 tasks, got"),
        (
            {"gate": gating.Hierarchical(2, "softmax")},
            "gate must have one level, because the tasks share the experts",
        ),
        ({"gate": NoisyTopK(k=7)}, "k must be at most 6, the number of experts"),
        (
            {"task_experts": [[0, 1], [5, 6]]},
            r"task_experts must have ascending ids from 0 to 5 for",
        ),
        ({"task_experts": [[0, 1]]}, "task_experts must have a list for each of 2 tasks"),
        (
            {"expert_inputs": [0] * 6},
            "expert_inputs must have an index for each of 6 experts, and 2",
        ),
        ({"expert_inputs": [0, 1]}, "expert_inputs must have an index for each of 6 experts"),
        ({"units": 3}, "MultiGateMoE has no argument 'units'"),
        ({"k": 3}, r"MultiGateMoE has no argument 'k', .*gate=NoisyTopK\(k=3\)"),
    ],
)
def test_errors(options, message):
    with pytest.raises(ValueError, match=message):
        MultiGateMoE(**{"tasks": 2, "num_experts": E, "hidden_units": 5, **options})


def test_inputs_must_be_a_list():
    layer = random_layer(tasks=3, **PLE)
    with pytest.raises(ValueError, match=r"moe must be a list of 3 tensors, because expert_inputs"):
        layer.route(X)


def test_ple_in_a_model_that_is_saved(tmp_path):
    inputs = keras.Input([D])
    a, b, shared = MultiGateMoE(3, E, 5, **PLE)([inputs] * 3)
    last = {**PLE, "task_experts": PLE["task_experts"][:2]}
    model = keras.Model(inputs, MultiGateMoE(2, E, 5, gate=Switch(), **last)([a, b, shared]))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    for y, expected in zip(loaded(X), model(X), strict=True):
        np.testing.assert_array_equal(y, expected)
