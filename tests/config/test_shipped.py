"""The shipped configs, and the paper's figures in them."""

import pytest

from tfmoe.analysis.operations import describe
from tfmoe.config import build_model, dump_config, load_config, shipped_configs

SHIPPED = shipped_configs()
# Table 7, models only.
TABLE_7 = {
    "LSTM-512-512", "LSTM-1024-512", "LSTM-2048-512", "4xLSTM-512", "MoE-1-Wide", "MoE-1-Deep",
    "MoE-4", "MoE-32", "MoE-256", "MoE-256-h", "MoE-1024-h", "MoE-4096-h", "2xLSTM-8192-1024",
    "MoE-34M", "MoE-143M",
}  # fmt: skip
# Rows that cite Jozefowicz et al. 2016.
PUBLISHED = {"LSTM-512-512", "LSTM-1024-512", "LSTM-2048-512", "2xLSTM-8192-1024"}
# Table 8, models only: experts, groups, perplexity after one pass.
TABLE_8 = {
    "4xLSTM-512": (None, None, 47.0),
    "MoE-32": (32, None, 40.4),
    "MoE-256-h": (256, 32, 35.3),
    "MoE-1024-h": (1024, 32, 32.7),
    "MoE-4096-h": (4096, 64, 30.9),
    "MoE-16384-h": (16384, 128, 29.7),
    "MoE-65536-h": (65536, 256, 28.9),
    "MoE-131072-h": (131072, 256, 29.2),
}
# Tables 2 to 4: languages, perplexity and BLEU, of GNMT and of the mixtures.
GNMT = {
    ("Table 2", "GNMT"): ("en", "fr", 2.79, 39.22),
    ("Table 3", "GNMT"): ("en", "de", 5.25, 24.91),
    ("Table 4", "GNMT"): ("en", "fr", None, 35.56),
}
TRANSLATION = {
    ("Table 2", "MoE 2048 experts"): ("en", "fr", 2.69, 40.35),
    ("Table 2", "MoE 2048 experts, longer"): ("en", "fr", 2.63, 40.56),
    ("Table 3", "MoE 2048 experts"): ("en", "de", 4.64, 26.03),
    ("Table 4", "MoE 2048 experts"): ("en", "fr", None, 36.57),
}
# Table 5: BLEU of GNMT-Mono, GNMT-Multi, MoE-Multi.
TABLE_5 = {
    ("fr", "en"): ("36.47", "34.40", "37.46"),
    ("de", "en"): ("31.77", "31.17", "34.80"),
    ("ja", "en"): ("23.41", "21.62", "25.91"),
    ("ko", "en"): ("25.42", "22.87", "28.71"),
    ("pt", "en"): ("44.40", "42.53", "46.13"),
    ("es", "en"): ("38.00", "36.04", "39.39"),
    ("en", "fr"): ("35.37", "34.00", "36.59"),
    ("en", "de"): ("26.43", "23.15", "24.53"),
    ("en", "ja"): ("23.66", "21.10", "22.78"),
    ("en", "ko"): ("19.75", "18.41", "16.62"),
    ("en", "pt"): ("38.40", "37.35", "37.90"),
    ("en", "es"): ("34.50", "34.25", "36.21"),
}
# Table 6: w_importance and w_load, perplexity, CV(Importance), CV(Load), max/mean load.
TABLE_6 = {
    (0.0, 0.0): (39.8, 3.04, 3.01, 17.80),
    (0.2, 0.0): (35.6, 0.06, 0.17, 1.47),
    (0.0, 0.2): (35.7, 0.22, 0.04, 1.15),
    (0.1, 0.1): (35.6, 0.06, 0.05, 1.14),
    (0.01, 0.01): (35.7, 0.48, 0.11, 1.37),
    (1.0, 1.0): (35.7, 0.03, 0.02, 1.07),
}


def configs_of(table):
    """`{row: config}` of a table."""
    return {item["row"]: load_config(item["path"]) for item in SHIPPED if item["table"] == table}


def test_table_7_is_complete():
    rows = [item["row"] for item in SHIPPED if item["table"] == "Table 7"]
    assert sorted(rows) == sorted(TABLE_7)


def test_table_8_matches_the_paper():
    configs = configs_of("Table 8")
    assert set(configs) == set(TABLE_8)
    for row, (num_experts, groups, perplexity) in TABLE_8.items():
        config = configs[row]
        assert config.paper.perplexity == perplexity
        assert config.model.d_model == 512
        assert (config.data.name, config.data.batch_tokens) == ("text", 2_500_000)
        assert (config.training.epochs, config.training.optimizer.name) == (1, "factored_adam")
        if num_experts is None:
            assert [(block.name, block.units) for block in config.model.blocks] == [
                ("lstm", 512)
            ] * 4
            continue
        before, moe, after = config.model.blocks
        assert before == after and (before.name, before.units) == ("lstm", 512)
        assert (moe.num_experts, moe.groups, moe.hidden_units) == (num_experts, groups, 1024)
        assert moe.recompute and moe.gate.k == (2 if groups else 4)
        assert (moe.gate.importance_weight, moe.gate.load_weight) == (0.1, 0.1)


def test_table_6_is_the_demo_with_other_weights():
    configs = configs_of("Table 6")
    demo = load_config("demo/grammars").model_dump()
    figures = {}
    expected = demo | changed_for_tables(demo)
    for row, config in configs.items():
        paper, tree = config.paper, config.model_dump()
        (gate,) = [block["gate"] for block in tree["model"]["blocks"] if "gate" in block]
        weights = gate["importance_weight"], gate["load_weight"]
        assert row == f"w_importance {weights[0]}, w_load {weights[1]}"
        figures[weights] = (
            paper.perplexity,
            paper.cv_importance,
            paper.cv_load,
            paper.max_over_mean_load,
        )
        (demo_gate,) = [block["gate"] for block in demo["model"]["blocks"] if "gate" in block]
        gate.update({key: demo_gate[key] for key in ("importance_weight", "load_weight")})
        assert tree | {"paper": None} == expected, row
    assert figures == TABLE_6


def changed_for_tables(demo):
    """The sections that differ from the demo's, for `demo` as a dictionary: larger batches, which
    reduce the effect of chance, and 1,600 steps.
    """
    optimizer = demo["training"]["optimizer"]
    schedule = {"name": "cosine_decay", "steps": 1600, "warmup_steps": 100, "final_fraction": 0.0}
    training = {
        "epochs": 4,
        "steps_per_epoch": 400,
        "optimizer": {**optimizer, "learning_rate": 1e-2, "beta_1": 0.9, "schedule": schedule},
    }
    return {
        "paper": None,
        "training": {**demo["training"], **training},
        "data": {**demo["data"], "batch_tokens": 16384},
    }


def check_translation_model(model):
    """3 and 2 LSTMs, with a mixture before the last LSTM of each side (section 5.3, App. E)."""
    lstm = ("lstm", 2048, 512)
    kinds = [
        [(block.name, getattr(block, "units", None), getattr(block, "projection_units", None))
         for block in blocks]
        for blocks in (model.encoder, model.decoder)
    ]  # fmt: skip
    assert kinds[0] == [lstm, lstm, ("moe", None, None), lstm]
    assert kinds[1] == [("attention_lstm", 2048, 512), ("moe", None, None), lstm]
    assert model.decoder[0].attention == "multiplicative"
    assert model.encoder[2] == model.decoder[1]
    assert (model.d_model, model.num_sampled) == (512, None)
    return model.encoder[2]


def check_translation_training(config):
    schedule = config.training.optimizer.schedule
    assert config.training.optimizer.name == "adam"
    assert (schedule.name, schedule.warmup_steps, schedule.constant_steps) == (
        "warmup_inverse_sqrt", 2000, 8000,
    )  # fmt: skip
    assert (config.data.vocabulary.size, config.data.batch_tokens) == (32_768, 64 * 16_000)


def test_tables_2_to_4_match_the_paper():
    figures = {}
    for table in ("Table 2", "Table 3", "Table 4"):
        for row, config in configs_of(table).items():
            data, paper = config.data, config.paper
            languages = data.source_language, data.target_language
            figures[table, row] = (*languages, paper.perplexity, paper.bleu)
            assert data.name == ("parallel" if table == "Table 4" else "wmt14")
            if row == "GNMT":
                check_gnmt(config)
                continue
            assert (paper.ops_per_timestep_millions, paper.total_billions) == (85, 8.7)
            moe = check_translation_model(config.model)
            assert (moe.num_experts, moe.groups, moe.hidden_units) == (2048, 64, 2048)
            assert (moe.gate.name, moe.gate.k, moe.gate.importance_weight) == ("batchwise", 2, 0.01)
            assert config.model.dropout == 0.4
            check_translation_training(config)
    assert figures == TRANSLATION | GNMT


def check_gnmt(config):
    """8 and 8 LSTMs, residual connections from the third layer on (Wu et al. 2016)."""
    model, paper, optimizer = config.model, config.paper, config.training.optimizer
    for blocks, first in ((model.encoder, "lstm"), (model.decoder, "attention_lstm")):
        assert [block.name for block in blocks] == [first] + ["lstm"] * 7
        assert {(block.units, block.projection_units) for block in blocks} == {(1024, None)}
        assert [block.residual for block in blocks] == [False] * 2 + [True] * 6
    assert (model.d_model, model.decoder[0].attention) == (1024, "additive")
    ops = 212 if paper.table == "Table 5" else 214
    assert (paper.ops_per_timestep_millions, paper.total_billions) == (ops, 0.278)
    assert (config.data.vocabulary.size, config.data.batch_tokens) == (32_768, 12 * 128 * 64)
    assert (optimizer.name, optimizer.learning_rate, optimizer.global_clip_norm) == (
        "adam",
        2e-4,
        5,
    )
    assert optimizer.schedule.name == "constant"


def test_gnmt_of_table_5():
    configs = configs_of("Table 5")
    assert set(configs) == {"MoE-Multi", "GNMT-Mono", "GNMT-Multi"}
    mono, multi, mixture = (configs[name] for name in ("GNMT-Mono", "GNMT-Multi", "MoE-Multi"))
    for config in (mono, multi):
        check_gnmt(config)
    assert mono.model == multi.model
    assert multi.data.directions == mixture.data.directions
    assert str(mono.paper.bleu) == TABLE_5["fr", "en"][0]


def test_the_longer_training_has_twice_the_epochs():
    configs = configs_of("Table 2")
    three_days, six_days = (configs[f"MoE 2048 experts{more}"] for more in ("", ", longer"))
    assert six_days.training.epochs == 2 * three_days.training.epochs
    assert (six_days.model, six_days.data) == (three_days.model, three_days.data)


@pytest.mark.parametrize(("experts", "groups", "k"), [(32, None, 4), (512, 64, 2)])
def test_smaller_translation_mixtures_cost_the_same(experts, groups, k):
    config, row = (load_config(f"wmt14/en-fr-moe-{n}") for n in (experts, 2048))
    moe = check_translation_model(config.model)
    assert (moe.num_experts, moe.groups, moe.gate.k) == (experts, groups, k)
    assert (config.paper, config.data, config.training) == (None, row.data, row.training)
    ops = [describe(build_model(model))["ops_per_timestep"] for model in (config, row)]
    assert ops[0] == ops[1]


def test_table_5_has_twelve_directions():
    shipped = next(item for item in SHIPPED if item["row"] == "MoE-Multi")
    config = load_config(shipped["path"])
    assert (shipped["table"], config.paper.ops_per_timestep_millions) == ("Table 5", 102)
    moe = check_translation_model(config.model)
    assert (moe.num_experts, moe.groups, moe.hidden_units) == (512, None, 8192)
    assert (moe.gate.name, moe.gate.k) == ("noisy_top_k", 2)
    assert (moe.gate.importance_weight, moe.gate.load_weight) == (0.01, 0.01)
    check_translation_training(config)
    directions = config.data.directions
    pairs = [(direction.source_language, direction.target_language) for direction in directions]
    assert len(pairs) == 12 and set(pairs) == set(TABLE_5)
    with open(shipped["path"], encoding="utf-8") as file:
        lines = [line.split() for line in file]
    for pair, figures in TABLE_5.items():
        assert ["#", "-".join(pair), *figures] in lines
    # Both directions of a pair of languages use the same files.
    for direction in directions:
        other = ({direction.source_language, direction.target_language} - {"en"}).pop()
        assert direction.train == [f"data/multilingual/train.en-{other}"]


def test_capacity_configs_differ_in_experts_at_equal_cost():
    demo = load_config("demo/grammars").model_dump()
    changed = changed_for_tables(demo)
    names = [item["name"] for item in SHIPPED if item["name"].startswith("capacity/")]
    assert names == [f"capacity/experts-{num_experts}" for num_experts in (4, 16, 64, 256)]
    costs, weights = [], []
    for name in names:
        config = load_config(name)
        tree = config.model_dump()
        assert (tree["training"], tree["data"]) == (changed["training"], changed["data"])
        moe, demo_moe = tree["model"]["blocks"].pop(1), demo["model"]["blocks"][1]
        assert tree["model"]["blocks"] == demo["model"]["blocks"][:1]
        assert name == f"capacity/experts-{moe['num_experts']}"
        assert moe["gate"] == demo_moe["gate"]
        assert moe["groups"] == (16 if moe["num_experts"] == 256 else None)
        counts = describe(build_model(config))
        costs.append(counts["ops_per_timestep"])
        weights.append(counts["parameters"]["experts"])
    # 8,192 for 2 experts and a gate: 2·2·32·62 + 2·32·4, with 56 and 16, with 32 and 64, or
    # 4·2·32·20 + 2·32·16 + 2·2·32·16; an LSTM of 4·64·32.
    assert costs == [8_192 + 8_192] * 4
    assert weights == sorted(weights) and weights[-1] > 20 * weights[0]


@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda shipped: shipped["name"])
def test_shipped_config_loads_and_builds_and_has_a_header(shipped, tmp_path):
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
    assert "# The paper: " in header and "# Measured: " in header
    if shipped["row"]:
        assert f"# {shipped['table']}, {shipped['row']}: " in header
        for figure in (config.paper.perplexity, config.paper.bleu):
            assert figure is None or str(figure) in header


def test_training_of_table_7_matches_the_paper():
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
            assert block.residual == (shipped["row"] not in PUBLISHED)
            if block.name == "moe":
                assert (block.gate.importance_weight, block.gate.load_weight) == (0.1, 0.1)
                assert block.gate.k == (2 if block.groups else 4)


def test_the_dense_demos_cost_as_much_as_the_mixtures():
    for names in (
        ("demo/language_model", "demo/dense"),
        ("demo/language_model", "transformer/moe"),
        ("demo/grammars", "demo/grammars_dense"),
        ("transformer/moe", "transformer/dense"),
    ):
        ops = [describe(build_model(load_config(name)))["ops_per_timestep"] for name in names]
        assert abs(ops[1] / ops[0] - 1) < 0.02
