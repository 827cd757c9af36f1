"""Comparisons: files that list several systems."""

import pytest

from tfmoe.config import ConfigError, find_config, load_comparison, load_config
from tfmoe.config.shipped import shipped_configs

TEXT = """\
base: demo/grammars
reference: Switch
data: {batch_tokens: 512}
mixtures: {num_experts: 8, hidden_units: 16}
systems:
  NoisyTopK: {}
  Switch:
    mixtures:
      hidden_units: 32
      gate: {name: switch}
  dense:
    base: demo/grammars_dense
    training: {epochs: 3}
"""


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A function that loads a comparison with a text, `c.yaml`."""
    monkeypatch.chdir(tmp_path)

    def load(text, overrides=()):
        (tmp_path / "c.yaml").write_text(text)
        return load_comparison("c.yaml", overrides)

    return load


def blocks(config):
    return [block.model_dump() for block in config.model.blocks]


def test_systems_are_changes_of_the_base(load):
    comparison = load(TEXT, ["data.max_length=16"])
    assert comparison.name == "c"
    assert comparison[2:] == (
        [0], "Switch", 0.02, {"NoisyTopK": "c.yaml:6", "Switch": "c.yaml:7", "dense": "c.yaml:11"},
    )  # fmt: skip
    overrides = ["data.batch_tokens=512", "data.max_length=16"]
    base = load_config("demo/grammars", overrides)
    noisy, switch, dense = comparison.configs.values()
    assert list(comparison.configs) == ["NoisyTopK", "Switch", "dense"]
    assert (noisy.data, noisy.training) == (base.data, base.training)
    assert dense == load_config("demo/grammars_dense", [*overrides, "training.epochs=3"])
    lstm, moe = blocks(base)
    assert blocks(noisy) == [lstm, {**moe, "num_experts": 8, "hidden_units": 16}]
    # The gate is replaced as a whole: Switch does not keep the weights of NoisyTopK's losses.
    gate = load_config("demo/grammars", ['model.blocks[1].gate={"name": "switch"}'])
    changed = {"num_experts": 8, "hidden_units": 32, "gate": blocks(gate)[1]["gate"]}
    assert blocks(switch) == [lstm, {**moe, **changed}]
    assert changed["gate"]["importance_weight"] == 0


def test_every_mixture_is_changed_and_a_system_may_have_its_own_base(load):
    model = load(
        "base: demo/translation\nsystems: {a: {mixtures: {gate: {name: switch}}},"
        " b: {base: demo/grammars}}"
    ).configs["a"].model  # fmt: skip
    gates = [b.gate.name for b in (*model.encoder, *model.decoder) if b.name == "moe"]
    assert gates == ["switch", "switch"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("systems:", "sistems:", "c.yaml:5: sistems: unknown key; did you mean systems?"),
        ("reference: Switch", "reference: Softmax",
         "c.yaml:2: reference: must be one of the systems NoisyTopK, Switch, dense, got 'Softmax'"),
        ("reference: Switch", "seeds: [1, 1]",
         "c.yaml:2: seeds: must be a list of different integers of at least 0, got [1, 1]"),
        ("reference: Switch", "seeds: 3", "c.yaml:2: seeds: must be a list of different integers"),
        ("reference: Switch", "tolerance: -1", "c.yaml:2: tolerance: must be the largest relative"),
        ("NoisyTopK: {}", "NoisyTopK:", "c.yaml:6: systems.NoisyTopK: must be a mapping"),
        ("NoisyTopK: {}", "../x: {}", "c.yaml:6: systems.../x: is also the name of a folder"),
        ("NoisyTopK: {}", "SWITCH: {}", "c.yaml:6: systems.SWITCH: is another system's name too"),
        ("NoisyTopK: {}", "NoisyTopK: {gate: {}}", "systems.NoisyTopK.gate: unknown key"),
        ("NoisyTopK: {}", "NoisyTopK: {mixtures: 3}", "mixtures: must be a mapping of keys of a"),
        ("training:", "mixtures:",
         "c.yaml:13 (system dense): mixtures.epochs: is given, but the model has no mixture"),
        ("training: {epochs", "model: {depth",
         "c.yaml:13 (system dense): model.depth: unknown key"),
        ("name: switch}", "name: swich}", "c.yaml:10 (system Switch): model.blocks[1].gate.name: "),
        ("name: switch}", "name: switch, k: 2}",
         "c.yaml:10 (system Switch): model.blocks[1].gate.k: unknown key"),
        ("batch_tokens: 512", "batch_tokens: 0", "c.yaml:3: data.batch_tokens: must be "),
        ("base: demo/grammars\n", "base: demo/gramars\n",
         "c.yaml:1: base: demo/gramars: no such file, and no shipped config of this name; did you"),
        ("base: demo/grammars\n", "base: 3\n", "c.yaml:1: base: must be the path of a config"),
    ],
)  # fmt: skip
def test_errors_name_file_line_system_and_key(load, old, new, message):
    assert old in TEXT
    with pytest.raises(ConfigError) as caught:
        load(TEXT.replace(old, new))
    assert message in str(caught.value)


def test_a_problem_that_all_systems_share_is_reported_once(load):
    with pytest.raises(ConfigError) as caught:
        load(TEXT.replace("batch_tokens: 512", "batch_tokens: x"))
    assert str(caught.value).count("batch_tokens") == 1


def test_a_comparison_is_no_config(load, tmp_path):
    load("base: demo/grammars\nsystems: {a: {}}")
    message = "c.yaml: is a comparison, not a config: `tfmoe compare c.yaml` trains its systems"
    with pytest.raises(ConfigError, match=message):
        load_config("c.yaml")
    with pytest.raises(ConfigError, match="compare/gates: is a comparison, not a config"):
        find_config("compare/gates")
    assert not [item for item in shipped_configs() if item["name"].startswith("compare/")]
    with pytest.raises(ConfigError, match="no shipped comparison of this name; did you mean comp"):
        load_comparison("compare/gate")
