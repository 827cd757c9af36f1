import pytest

from tfmoe.config import (
    ConfigError,
    build_model,
    dump_config,
    find_config,
    load_config,
    shipped_configs,
)
from tfmoe.config.shipped import ROOT

SHIPPED = shipped_configs()
# Table 7, models only.
TABLE_7 = {
    "LSTM-512-512", "LSTM-1024-512", "LSTM-2048-512", "4xLSTM-512", "MoE-1-Wide", "MoE-1-Deep",
    "MoE-4", "MoE-32", "MoE-256", "MoE-256-h", "MoE-1024-h", "MoE-4096-h", "2xLSTM-8192-1024",
    "MoE-34M", "MoE-143M",
}  # fmt: skip


def test_table_7_is_complete():
    rows = [each["row"] for each in SHIPPED if each["table"] == "Table 7"]
    assert sorted(rows) == sorted(TABLE_7)


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped["name"])
def test_loads_builds_and_says_what_it_is(shipped, tmp_path):
    config = load_config(shipped["path"])
    assert build_model(config).blocks
    assert config == load_config(shipped["name"]) == load_config(f"configs/{shipped['name']}.yaml")
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_config(config))
    assert load_config(resolved) == config
    with open(shipped["path"], encoding="utf-8") as file:
        comment = [line for line in file.read().split("\n\n")[0].splitlines()]
    assert all(line.startswith("#") for line in comment)
    header = "\n".join(comment)
    name = shipped["name"]
    assert f"tfmoe train {name}" in header or f"tfmoe train configs/{name}.yaml" in header
    assert "# The paper: " in header and "# We: " in header
    if shipped["row"]:
        assert f"# {shipped['table']}, {shipped['row']}: " in header
        assert str(config.paper.perplexity) in header


def test_every_row_of_table_7_trains_as_the_paper_says():
    for shipped in SHIPPED:
        if shipped["table"] != "Table 7":
            continue
        config = load_config(shipped["path"])
        assert config.data.name == "lm1b"
        assert config.data.vocabulary.size == 793_471
        assert config.model.num_sampled == 8192
        assert config.training.epochs == 10
        assert config.training.optimizer.schedule.warmup_steps == 1000
        for block in config.model.blocks:
            if block.name == "moe":
                assert (block.gate.importance_weight, block.gate.load_weight) == (0.1, 0.1)
                assert block.gate.k == (2 if block.groups else 4)


def test_dense_demo_matches_the_mixture():
    for moe, dense in (("language_model", "dense"), ("grammars", "grammars_dense")):
        ops = [
            sum(build_model(load_config(f"demo/{name}")).ops_per_timestep().values())
            for name in (moe, dense)
        ]
        assert abs(ops[1] / ops[0] - 1) < 0.02


def test_a_file_comes_before_a_shipped_name(tmp_path, monkeypatch):
    (tmp_path / "demo").mkdir()
    mine = tmp_path / "demo" / "dense"
    mine.write_text("")
    monkeypatch.chdir(tmp_path)
    assert find_config("demo/dense").resolve() == mine.resolve()
    assert find_config("demo/dense.yaml") == ROOT / "demo" / "dense.yaml"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lm1b/moe-257", "lm1b/moe-257: no such file, and no shipped config of this name; "
         "did you mean lm1b/moe-256? `tfmoe configs` lists them"),
        ("moe-32", "did you mean lm1b/moe-32?"),
        ("/", "/: is a directory"),
        ("lm1b/_base", "no such file"),
    ],
)  # fmt: skip
def test_unknown(name, message):
    with pytest.raises(ConfigError) as caught:
        find_config(name)
    assert message in str(caught.value)
