"""Loading of configs, `--set`, and error messages."""

import pytest
from config.minimal import MINIMAL, problems

from tfmoe.config import dump_config, load_config


def test_defaults(write):
    config = load_config(write(MINIMAL))
    assert config.model.dropout == 0.0
    assert config.model.blocks[1].gate.importance_weight == 0.1
    assert config.data.train == ["train-*.txt"]
    assert config.data.vocabulary.size is None
    assert config.training.optimizer.schedule.name == "constant"


def test_dump_round_trip(write):
    config = load_config(write(MINIMAL), ["training.optimizer.epsilon=1e-9"])
    again = load_config(write(dump_config(config), "resolved.yaml"))
    assert again == config
    assert again.training.optimizer.epsilon == 1e-9


class TestSet:
    def test_values_are_yaml(self, write):
        config = load_config(
            write(MINIMAL),
            [
                "model.blocks[1].num_experts=64",
                "model.blocks.1.gate.k=3",
                "training.optimizer.learning_rate=1e-2",
                "data.train=[a, b]",
                "model.num_sampled=null",
            ],
        )
        assert config.model.blocks[1].num_experts == 64
        assert config.model.blocks[1].gate.k == 3
        assert config.training.optimizer.learning_rate == 0.01
        assert config.data.train == ["a", "b"]

    def test_globs_need_no_quotes(self, write):
        config = load_config(write(MINIMAL), ["data.train=*.txt", "data.valid=../*/[ab].gz"])
        assert (config.data.train, config.data.valid) == (["*.txt"], ["../*/[ab].gz"])

    def test_the_last_value_is_used(self, write):
        assert (
            load_config(write(MINIMAL), ["training.seed=1", "training.seed=2"]).training.seed == 2
        )

    @pytest.mark.parametrize("reverse", [False, True])
    def test_another_corpus_in_any_order(self, write, reverse):
        path = write(
            MINIMAL.replace('name: text, train: "train-*.txt"', "name: grammars, symbols: 5")
        )
        overrides = ["data.name=text", "data.train=x", "data.valid=y"]
        config = load_config(path, overrides[::-1] if reverse else overrides)
        assert (config.data.train, config.data.valid) == (["x"], ["y"])

    def test_a_value_that_was_set_is_not_dropped_silently(self, write):
        (line,) = problems(write(MINIMAL), "data.train=x", "data.name=grammars")
        assert line.startswith("--set data.train=x: data.train: unknown key (its value is 'x'); ")
        names = "text or json_lines or parquet or huggingface or tfds or parallel"
        assert line.endswith(f"it belongs to name: {names}, not grammars")

    def test_another_gate_and_block(self, write):
        config = load_config(write(MINIMAL), ["model.blocks[1].gate.name=switch"])
        assert config.model.blocks[1].gate.name == "switch"
        config = load_config(write(MINIMAL), ["model.blocks[1].name=feed_forward"])
        assert config.model.blocks[1].hidden_units == 16

    @pytest.mark.parametrize(
        ("override", "line"),
        [
            ("foo", "--set foo: must be key=value, such as model.d_model=64"),
            (
                "a b=1",
                "--set a b=1: 'a b' is not a key; keys look like model.d_model or "
                "model.blocks[1].gate.k",
            ),
            (
                "a.a[1234567890]=1",
                "--set a.a[1234567890]=1: 'a.a[1234567890]' is not a key; keys look like "
                "model.d_model or model.blocks[1].gate.k",
            ),
            (
                "model.d_model={a: 1, a: 2}",
                "--set model.d_model={a: 1, a: 2}: model.d_model.a: duplicate key, also on line 1; "
                "remove one of them",
            ),
            (
                "model.blocks[2].units=8",
                "--set model.blocks[2].units=8: model.blocks[2]: there is no such item; "
                "model.blocks has items 0 to 1",
            ),
            (
                "model.d_model.x=1",
                "--set model.d_model.x=1: model.d_model.x: cannot be set: model.d_model is 8",
            ),
            (
                "model.blocks.x=1",
                "--set model.blocks.x=1: model.blocks.x: there is no such item; "
                "model.blocks has items 0 to 1",
            ),
            (
                "modle.x=1",
                "--set modle.x=1: modle: unknown key (its value is {'x': 1}); did you mean model? "
                "Valid keys: paper, model, data, training, distribute",
            ),
        ],
    )
    def test_errors(self, write, override, line):
        assert problems(write(MINIMAL), override) == [line]


class TestErrors:
    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "model.blocks[1].gate.kk=3",
                "model.blocks[1].gate.kk: unknown key (its value is 3); did you mean k? Valid "
                "keys: name, k, importance_weight, load_weight, noise, noise_floor, seed, "
                "z_loss_weight, jitter, gate_hidden_units",
            ),
            ("model.d_model='8'", "model.d_model: must be an integer of at least 1, got '8'"),
            ("model.d_model=8.0", "model.d_model: must be an integer of at least 1, got 8.0"),
            ("model.d_model=true", "model.d_model: must be an integer of at least 1, got true"),
            ("model.d_model=0", "model.d_model: must be an integer of at least 1, got 0"),
            ("model.dropout=1", "model.dropout: must be a number of at least 0 and below 1, got 1"),
            (
                "model.dropout=false",
                "model.dropout: must be a number of at least 0 and below 1, got false",
            ),
            (
                "model.dropout=.nan",
                "model.dropout: must be a number of at least 0 and below 1, got nan",
            ),
            (
                "model.num_sampled=0",
                "model.num_sampled: must be an integer of at least 1, or null, got 0",
            ),
            (
                "model.blocks[1].use_bias=1",
                "model.blocks[1].use_bias: must be true or false, got 1",
            ),
            ("data.train=3", "data.train: must be a list of text, got 3"),
            ("data.train=[]", "data.train: must be a list of at least one item, got []"),
            ("data.train=[a, 3]", "data.train[1]: must be text, got 3"),
            (
                "training.dtype_policy=bfloat16",
                "training.dtype_policy: must be float32 or mixed_bfloat16, got 'bfloat16'; "
                "did you mean mixed_bfloat16?",
            ),
            (
                "model.blocks[0].name=lsmt",
                "model.blocks[0].name: must be one of lstm, moe, feed_forward, soft_moe, "
                "self_attention, moe_lstm, got 'lsmt'; did you mean lstm?",
            ),
            (
                "model.blocks[0]={units: 8}",
                "model.blocks[0].name: is missing; it must be one of lstm, moe, feed_forward, "
                "soft_moe, self_attention, moe_lstm",
            ),
            (
                "model.blocks[0]=lstm",
                "model.blocks[0]: must be a mapping such as {name: lstm, …}, where name is one of "
                "lstm, moe, feed_forward, soft_moe, self_attention, moe_lstm, got 'lstm'",
            ),
            ("model.blocks=[]", "model.blocks: must be a list of at least one item, got []"),
            (
                "training.optimizer.schedule.warmup_steps=5",
                "training.optimizer.schedule.warmup_steps: unknown key (its value is 5); it "
                "belongs to name: warmup_inverse_sqrt or cosine_decay, not constant",
            ),
            (
                "training.optimizer.schedule.name=cosine",
                "training.optimizer.schedule.name: must be one of constant, warmup_inverse_sqrt, "
                "cosine_decay, got 'cosine'; did you mean cosine_decay?",
            ),
        ],
    )
    def test_types(self, write, override, message):
        assert problems(write(MINIMAL), override) == [f"--set {override}: {message}"]

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            (
                "model.blocks[1].gate.k=5",
                "model.blocks[1].gate.k: must be at most 4, the number of experts",
            ),
            (
                "model.blocks[1].groups=3",
                "model.blocks[1].groups: must divide num_experts=4, got groups=3; "
                "possible values: 1, 2, 4",
            ),
            (
                "model.blocks[1].gate.seed=x",
                "model.blocks[1].gate.seed: must be an integer of at least 0 and below 2147483648",
            ),
            ("model.blocks[1].gate.load_weight=-1", "model.blocks[1].gate.load_weight: must be a"),
            (
                "model.blocks[0].units=9",
                "model.blocks[0].units: the block's output has width 9, but must have the width of "
                "its input, model.d_model=8; set projection_units: 8",
            ),
            (
                "model.blocks[0].projection_units=9",
                "model.blocks[0].projection_units: the block's output",
            ),
        ],
    )
    def test_combinations(self, write, override, message):
        (line,) = problems(write(MINIMAL), override)
        assert line.startswith(f"--set {override}: {message}")

    def test_two_clipping_norms(self, write):
        clips = ["training.optimizer.clip_norm=1", "training.optimizer.global_clip_norm=2"]
        (line,) = problems(write(MINIMAL), *clips)
        assert "must be null when global_clip_norm is set, got 1 and 2" in line

    def test_more_successors_than_symbols(self, write):
        (line,) = problems(write(MINIMAL), "data={name: grammars, symbols: 3}")
        assert "data.successors: must be at most symbols=3, got 4" in line

    def test_all_problems_with_their_lines(self, write):
        path = write("""\
            model:
              d_model: 8
              dropuot: 0.1
              blocks:
                - {name: lstm, units: 9}
                - {name: moe, num_experts: 2, hidden_units: 4, gate: {k: 3}}
                - {name: moe, num_experts: 2}
            training:
              epochs: 0
            """)
        lines = problems(path)
        assert [line.split(":")[1] for line in lines] == ["7", "3", "1", "9", "5", "6"]
        assert lines[0] == (
            "config.yaml:7: model.blocks[2].hidden_units: is missing; it must be an integer "
            "of at least 1"
        )
        assert lines[2].startswith(
            "config.yaml:1: data: is missing; it must be a mapping such as {name: text"
        )

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "",
                "config.yaml: is empty; a config is a mapping with the keys paper, model, data, "
                "training",
            ),
            ("- 1", "config.yaml: contains [1]; a config is a mapping"),
            ("base: [3]", "config.yaml:1: base: must be the path of a config, relative to this"),
        ],
    )
    def test_not_a_config(self, write, text, message):
        (line,) = problems(write(text))
        assert line.startswith(message)
