"""The section `training.optimizer`."""

import keras
import numpy as np
import pytest

from tfmoe.config import (
    ConfigError,
    build_model,
    build_optimizer,
    build_strategy,
    dump_config,
    load_config,
)
from tfmoe.config.named import name_of, sections_of
from tfmoe.config.training_schema import Optimizer
from tfmoe.optimizers import OPTIMIZERS, FactoredAdagrad, FactoredAdam
from tfmoe.optimizers.registry import NEED_WHOLE_VARIABLES, keras_optimizers
from tfmoe.training.state import TrainingState

TEXT = """\
model:
  d_model: 8
  blocks: [{name: moe, num_experts: 4, hidden_units: 6, gate: {k: 2, noise: false}}]
data: {name: text, train: "*.txt", vocabulary: {size: 9}}
training: {optimizer: OPTIMIZER}
distribute: {name: DISTRIBUTE}
"""


@pytest.fixture
def load(tmp_path):
    def load(optimizer, distribute="none"):
        path = tmp_path / "config.yaml"
        path.write_text(TEXT.replace("OPTIMIZER", optimizer).replace("DISTRIBUTE", distribute))
        return load_config(path)

    return load


def test_every_optimizer_has_a_section():
    assert {name_of(section) for section in sections_of(Optimizer)} == set(OPTIMIZERS)


def test_factored_adam(load):
    optimizer = build_optimizer(
        load(
            "{name: factored_adam, learning_rate: 0.5, beta_1: 0.8, beta_2: 0.99, epsilon: 1.0e-5, "
            "clip_norm: 2, schedule: {name: warmup_inverse_sqrt, warmup_steps: 4}}"
        )
    )
    assert isinstance(optimizer, FactoredAdam)
    assert (optimizer.beta_1, optimizer.beta_2, optimizer.epsilon) == (0.8, 0.99, 1e-5)
    assert (optimizer.factored, optimizer.factored_beta_1, optimizer.clipnorm) == ("experts", 0, 2)
    assert optimizer._learning_rate.warmup_steps == 4


def test_factored_adagrad(load):
    config = load("{name: factored_adagrad, factored: matrices, initial_accumulator_value: 0}")
    optimizer = build_optimizer(config)
    assert isinstance(optimizer, FactoredAdagrad)
    assert (optimizer.factored, optimizer.initial_accumulator_value) == ("matrices", 0)


def test_factored_as_fragments_of_paths(load, tmp_path):
    config = load(
        "{name: factored_adam, factored: [experts/kernel, embedding], global_clip_norm: 3}"
    )
    assert build_optimizer(config).factored == ["experts/kernel", "embedding"]
    assert build_optimizer(config).global_clipnorm == 3
    path = tmp_path / "again.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


def test_adam_needs_no_name(load):
    assert type(build_optimizer(load("{beta_1: 0.5}"))) is keras.optimizers.Adam
    assert type(build_optimizer(load("{}"))) is keras.optimizers.Adam


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        (
            "{name: factored_adam, factored: [a, 3]}",
            "training.optimizer.factored[1]: must be text, got 3",
        ),
        (
            "{name: factored_adm}",
            "training.optimizer.name: must be one of adam, factored_adam, factored_adagrad, "
            "fused_adam, adadelta,",
        ),
        ("{name: factored_adm}", "got 'factored_adm'; did you mean factored_adam?"),
        ("{name: adam_w}", "got 'adam_w'; did you mean adamw?"),
        (
            "{beta_1: 1}",
            "training.optimizer.beta_1: must be a number of at least 0 and below 1, got 1",
        ),
        (
            "{name: lion, beta_1: 0}",
            "training.optimizer.beta_1: must be in the [0, 1] range.",
        ),
        (
            "{name: muon, exclude_layers: softmax}",
            "training.optimizer.exclude_layers: must be a list of text, or null, got 'softmax'",
        ),
        (
            "{name: sgd, nesterov: 1}",
            "training.optimizer.nesterov: must be true or false, got 1",
        ),
        (
            "{schedule: {name: cosine_decay, steps: 0}}",
            "training.optimizer.schedule.steps: must be an integer of at least 1, got 0",
        ),
        (
            "{name: factored_adam, factored: expert}",
            "training.optimizer.factored: must be one of 'experts', 'matrices', 'none' or a list "
            "of fragments of variable paths, such as ['experts/kernel'], got 'expert'; did you "
            "mean 'experts'?",
        ),
        ("{name: factored_adagrad, factored: []}", "training.optimizer.factored: must be one of"),
        (
            "{name: factored_adam, factored: 3}",
            "training.optimizer.factored: must be text or a list of text, got 3",
        ),
        (
            "{factored: experts}",
            "training.optimizer.factored: unknown key (its value is 'experts'); it belongs to "
            "name: factored_adam or factored_adagrad, not adam",
        ),
        (
            "{name: factored_adam, factored_beta_1: 1.0}",
            "factored_beta_1: must be a number of at least",
        ),
    ],
)
def test_errors(load, optimizer, message):
    with pytest.raises(ConfigError) as caught:
        load(optimizer)
    assert message in str(caught.value)
    assert str(caught.value).count("training.optimizer") == 1


def test_keras_names():
    assert OPTIMIZERS["adamw"] is keras.optimizers.AdamW
    assert {"adamw", "lion", "rmsprop", "sgd"} < set(OPTIMIZERS)
    # They wrap other optimizers.
    assert not {"optimizer", "lossscaleoptimizer", "multioptimizer"} & set(OPTIMIZERS)


@pytest.mark.parametrize("name", keras_optimizers())
def test_defaults_of_keras_optimizers(load, name):
    optimizer, expected = build_optimizer(load(f"{{name: {name}}}")), OPTIMIZERS[name]()
    assert optimizer.get_config() | {"name": ""} == expected.get_config() | {"name": ""}


def test_arguments_of_a_keras_optimizer(load):
    optimizer = build_optimizer(
        load(
            "{name: adamw, weight_decay: 0.1, learning_rate: 0.5, clip_norm: 3, schedule: "
            "{name: cosine_decay, steps: 4}}"
        )
    )
    assert type(optimizer) is keras.optimizers.AdamW
    assert (optimizer.weight_decay, optimizer.clipnorm) == (0.1, 3)
    assert float(optimizer._learning_rate(0)) == 0.5
    muon = build_optimizer(load("{name: muon, exclude_layers: [soft, embed], adam_lr_ratio: 0.5}"))
    assert (muon.exclude_layers, muon.adam_lr_ratio) == (["soft", "embed"], 0.5)


@pytest.mark.parametrize("name", NEED_WHOLE_VARIABLES)
def test_optimizers_that_cannot_be_sharded(load, name):
    with pytest.raises(ConfigError, match=rf"optimizer\.name: must not be {name} when distribute"):
        load(f"{{name: {name}}}", distribute="local")


def trained_model(config, steps):
    """A model after some steps, under the strategy of the config."""
    keras.utils.set_random_seed(0)
    with build_strategy(config).scope():
        model = build_model(config)
        model.compile(build_optimizer(config))
        model.build((None, None))
    tokens = np.arange(32).reshape(8, 4) % 9
    if steps:
        model.fit(tokens, tokens, batch_size=8, epochs=steps, verbose=0, shuffle=False)
    return model


def test_two_devices_equal_one(load):
    settings = "{name: sgd, momentum: 0.9, weight_decay: 0.01, global_clip_norm: 1}"
    one, two = (
        trained_model(load(settings, distribute), steps=1)
        for distribute in ("none", "local, devices: 2")
    )
    for weight, expected in zip(two.trainable_weights, one.trainable_weights, strict=True):
        np.testing.assert_allclose(weight.numpy(), expected.numpy(), atol=1e-6, err_msg=weight.path)


@pytest.mark.parametrize("name", ["lion", "schedulefreeadamw"])
def test_the_optimizers_state_is_restored(load, name, tmp_path):
    config = load(f"{{name: {name}, schedule: {{name: warmup_inverse_sqrt}}}}")
    model = trained_model(config, steps=2)
    TrainingState(model, tmp_path / "checkpoints").save()
    resumed = trained_model(config, steps=0)
    assert TrainingState(resumed, tmp_path / "checkpoints").restore()
    assert len(model.optimizer.variables) > 3
    for variable, expected in zip(
        resumed.optimizer.variables, model.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(variable.numpy(), expected.numpy(), variable.path)
