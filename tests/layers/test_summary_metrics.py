"""`metrics="summary"`: one set of metrics for all mixtures of a model."""

import keras
import numpy as np
import pytest

from tfmoe.gating import BiasBalanced, NoisyTopK, Switch
from tfmoe.layers import MoE, MoELSTM, MultiGateMoE, SoftMoE
from tfmoe.layers.expert_metrics import METRICS

D = 6
X = np.random.default_rng(0).standard_normal((16, D)).astype("float32")
Y = np.sin(X[:, :2])
LOAD = {"moe_max_over_mean_load", "moe_unused_experts"}
TRAINING = LOAD | {"moe_balancing_loss"}
GATE = NoisyTopK(k=2, noise=False, importance_weight=0.5)


def mixture(name="moe", **options):
    return MoE(8, 5, **{"gate": GATE, "name": name, **options})


def chain(*layers, name=None):
    """A model of residual blocks."""
    inputs = x = keras.Input([D])
    for layer in layers:
        x = x + layer(x)
    return keras.Model(inputs, x, name=name)


def with_head(model, **options):
    """A compiled model that does not learn, so that all epochs have the same weights."""
    model = keras.Sequential([model, keras.layers.Dense(2)])
    model.compile(keras.optimizers.SGD(0.0), "mse", **{"run_eagerly": True, **options})
    return model


def fit(model, x=X, y=Y, **options):
    """The history of two epochs in equal batches, and of validation."""
    options = {"batch_size": 8, "epochs": 2, "validation_data": (x, y), "verbose": 0, **options}
    return model.fit(x, y, validation_batch_size=8, **options).history


def columns(history):
    """The names of the metrics of mixtures, of training and of validation."""
    names = set(history) - {"loss", "val_loss"}
    validation = {name for name in names if name.startswith("val_")}
    return names - validation, {name.removeprefix("val_") for name in validation}


COMPILED = {"run_eagerly": False}


@pytest.mark.parametrize(
    ("num_mixtures", "options"),
    [
        (1, {}),
        (3, {}),
        (1, COMPILED),
        pytest.param(3, COMPILED, marks=pytest.mark.slow),
        pytest.param(2, {**COMPILED, "steps_per_execution": 2}, marks=pytest.mark.slow),
    ],
)
def test_loss_without_the_balancing_loss_is_the_validation_loss(num_mixtures, options):
    keras.utils.set_random_seed(0)
    model = with_head(chain(*(mixture(f"moe_{i}") for i in range(num_mixtures))), **options)
    history = fit(model)
    assert columns(history) == (TRAINING, LOAD)
    for loss, balancing, expected in zip(
        history["loss"], history["moe_balancing_loss"], history["val_loss"], strict=True
    ):
        assert balancing > 0.01
        assert loss - balancing == pytest.approx(expected, rel=1e-6)
    result = model.evaluate(X, Y, batch_size=8, verbose=0, return_dict=True)
    assert set(result) == {"loss"} | LOAD
    assert result["loss"] == pytest.approx(history["val_loss"][0], rel=1e-6)


def test_a_mixture_that_is_called_twice_has_two_losses():
    keras.utils.set_random_seed(0)
    layer = mixture()
    history = fit(with_head(chain(layer, layer)))
    task = history["loss"][0] - history["moe_balancing_loss"][0]
    assert task == pytest.approx(history["val_loss"][0], rel=1e-6)


def test_values_are_the_sum_and_the_largest():
    keras.utils.set_random_seed(0)
    summary = with_head(chain(*(mixture(f"moe_{i}") for i in range(3))))
    every = with_head(chain(*(mixture(f"moe_{i}", metrics="all") for i in range(3))))
    every.set_weights(summary.get_weights())
    history, expected = fit(summary, shuffle=False), fit(every, shuffle=False)
    for name, reduce in (
        ("balancing_loss", np.sum), ("max_over_mean_load", np.max), ("unused_experts", np.max),
    ):  # fmt: skip
        values = [expected[f"moe_{i}_{name}"][-1] for i in range(3)]
        assert len(set(values)) > 1
        assert history[f"moe_{name}"][-1] == pytest.approx(reduce(values), rel=1e-6)
    values = [expected[f"val_moe_{i}_max_over_mean_load"][-1] for i in range(3)]
    assert history["val_moe_max_over_mean_load"][-1] == pytest.approx(max(values), rel=1e-6)


def test_all_metrics_of_a_mixture():
    training, validation = columns(fit(with_head(chain(mixture(metrics="all")))))
    assert training == {f"moe_{name}" for name in METRICS}
    assert validation == training - {"moe_balancing_loss"}


def test_dropped_only_with_a_capacity():
    model = with_head(chain(mixture("a"), mixture("b", capacity_factor=0.5)))
    history = fit(model)
    assert columns(history) == (TRAINING | {"moe_dropped"}, LOAD)
    assert 0.1 < history["moe_dropped"][0] < 1
    gate = Switch(capacity_factor=0.5, minimum_capacity=0, evaluation_capacity_factor=0.5)
    with_dropped = TRAINING | {"moe_dropped"}, LOAD | {"moe_dropped"}
    assert columns(fit(with_head(chain(mixture(gate=gate))))) == with_dropped


def test_a_gate_without_a_loss():
    history = fit(with_head(chain(mixture(gate=BiasBalanced(k=2)))))
    assert columns(history) == (TRAINING, LOAD)
    assert history["moe_balancing_loss"] == [0, 0]


def test_several_modes_in_one_model():
    """The summary is of the mixtures that have it."""
    keras.utils.set_random_seed(0)
    layers = mixture("a", metrics="all"), mixture("b"), mixture("c", metrics=None)
    history = fit(with_head(chain(*layers)))
    assert columns(history)[0] == TRAINING | {f"a_{name}" for name in METRICS}


def test_a_mixture_with_all_metrics_has_the_name_moe():
    history = fit(with_head(chain(mixture("moe", metrics="all"), mixture("b"))))
    summary = {name.replace("moe_", "moe_summary_") for name in TRAINING}
    assert columns(history)[0] == summary | {f"moe_{name}" for name in METRICS}


@pytest.mark.parametrize("options", [{}, pytest.param(COMPILED, marks=pytest.mark.slow)])
def test_parts_of_a_model_and_a_second_model(options):
    """Each model reports its own mixtures, whichever was trained last."""
    keras.utils.set_random_seed(0)
    first, second = chain(mixture("a")), chain(mixture("b"), mixture("c"))
    whole = with_head(keras.Sequential([first, second]), **options)
    part, other = with_head(first, **options), with_head(second, **options)
    histories = {}
    for model in (whole, part, other, whole, part):  # the last two with cached functions
        history = fit(model, shuffle=False)
        assert columns(history) == (TRAINING, LOAD)
        expected = histories.setdefault(id(model), history)
        assert {name: pytest.approx(values) for name, values in expected.items()} == history
        task = history["loss"][0] - history["moe_balancing_loss"][0]
        assert task == pytest.approx(history["val_loss"][0], rel=1e-6)


class OwnStep(keras.Model):
    """A model with a training step of its own around another model."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def call(self, inputs, training=False):
        return self.inner(inputs, training=training)

    def train_step(self, data):
        x, y = data
        self.compute_loss(x, y, self.inner(x, training=True))
        logs = {}
        for metric in self.metrics:
            result = metric.result()
            logs.update(result if isinstance(result, dict) else {})
        return logs


def test_a_training_step_that_reads_all_metrics():
    model = OwnStep(with_head(chain(mixture("a"), mixture("b"))))
    model.compile("sgd", "mse", run_eagerly=True)
    assert set(model.fit(X, Y, verbose=0).history) == TRAINING


def test_reading_outside_of_a_model():
    """The mixtures of the model that was called last are reported once."""
    layers = mixture("a"), mixture("b")
    model = chain(*layers)
    model(X, training=True)
    results = [layer.expert_metrics.result() for layer in layers]
    assert [set(result) for result in results] == [TRAINING, set()]
    total = sum(float(loss) for loss in model.losses)
    assert float(results[0]["moe_balancing_loss"]) == pytest.approx(total, rel=1e-6)


def test_other_layers(tmp_path):
    inputs = keras.Input([4, D])
    tasks = MultiGateMoE(2, 4, 5, gate=NoisyTopK(k=2))(inputs)
    x = SoftMoE(4, 5, name="one")(SoftMoE(4, 5, name="two")(tasks[0] + tasks[1]))
    model = keras.Model(inputs, MoELSTM(4, D, gate=NoisyTopK(k=2))(x))
    model.compile("sgd", "mse", run_eagerly=True)
    data = np.reshape(np.tile(X, 4), [16, 4, D])
    names = [f"soft_moe_{name}" for name in ("dispatch_max", "combine_max", "slot_similarity")]
    history = fit(model, data, data, epochs=1)
    assert columns(history) == (TRAINING | set(names), LOAD | set(names))
    soft = [model.get_layer(name).expert_metrics.means() for name in ("one", "two")]
    for i, name in enumerate(names):
        assert history[f"val_{name}"][-1] == pytest.approx(float(max(soft[0][i], soft[1][i])))


@pytest.mark.parametrize(
    ("given", "mode"),
    [("summary", "summary"), ("all", "all"), (None, None), (True, "all"), (False, None)],
)
def test_modes(given, mode):
    layers = [
        MoE(4, 5, metrics=given), MoELSTM(4, 5, metrics=given), SoftMoE(4, 5, metrics=given),
        MultiGateMoE(2, 4, 5, metrics=given),
    ]  # fmt: skip
    for layer in layers:
        config = layer.get_config()
        assert config["metrics"] == mode
        assert type(layer).from_config(config).get_config()["metrics"] == mode
        if not isinstance(layer, MultiGateMoE):
            assert (layer.expert_metrics is None) is (mode is None)


def test_another_mode():
    for layer in (MoE, MoELSTM, SoftMoE):
        with pytest.raises(ValueError, match=r"metrics must be 'summary', 'all' or None, got 1"):
            layer(4, 5, metrics=1)
    with pytest.raises(ValueError, match=r"metrics must be 'summary', 'all' or None, got 'each'"):
        MultiGateMoE(2, 4, 5, metrics="each")


def test_a_configuration_without_the_argument_is_old():
    config = mixture().get_config()
    del config["metrics"]
    assert MoE.from_config(config).get_config()["metrics"] == "all"


def test_one_variable_for_all_metrics():
    assert len(mixture(metrics="all").expert_metrics.variables) == 1
