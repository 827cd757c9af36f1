"""The section `training.optimizer`."""

import keras
import pytest

from tfmoe.config import ConfigError, build_optimizer, dump_config, load_config
from tfmoe.config.named import name_of, sections_of
from tfmoe.config.training_schema import Optimizer
from tfmoe.optimizers import OPTIMIZERS, FactoredAdagrad, FactoredAdam

TEXT = """\
model: {d_model: 8, blocks: [{name: lstm, units: 8}]}
data: {name: text, train: "*.txt", vocabulary: {size: 9}}
training: {optimizer: OPTIMIZER}
"""


@pytest.fixture
def load(tmp_path):
    def load(optimizer):
        path = tmp_path / "config.yaml"
        path.write_text(TEXT.replace("OPTIMIZER", optimizer))
        return load_config(path)

    return load


def test_every_section_has_its_optimizer():
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


def test_fragments_of_paths(load, tmp_path):
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
            "{name: factored_adm}",
            "training.optimizer.name: must be one of adam, factored_adam, factored_adagrad, "
            "adadelta,",
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
            "training.optimizer.exclude_layers: must be a list, or null, got 'softmax'",
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
            "of fragments of the variables' paths, such as ['experts/kernel'], got 'expert'; did "
            "you mean 'experts'?",
        ),
        ("{name: factored_adagrad, factored: []}", "training.optimizer.factored: must be one of"),
        (
            "{name: factored_adam, factored: 3}",
            "training.optimizer.factored: must be text or a list, got 3",
        ),
        (
            "{factored: experts}",
            "training.optimizer.factored: unknown key (its value is 'experts'); it belongs to "
            "name: factored_adam or factored_adagrad, not adam",
        ),
        ("{name: factored_adam, factored_beta_1: 1.0}", "factored_beta_1: must be at least 0 and"),
    ],
)
def test_what_is_wrong(load, optimizer, message):
    with pytest.raises(ConfigError) as caught:
        load(optimizer)
    assert message in str(caught.value)
    assert str(caught.value).count("training.optimizer") == 1
