import csv
import sys

import keras
import numpy as np
import pytest

from tfmoe import data_pipelines
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.inspection import (
    NumberedBatch,
    contexts,
    noise_deviation,
    route_text,
    routing_table,
    write_routing_table,
)
from tfmoe.layers import AttentionLSTM, MoE
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks

VOCABULARY = data_pipelines.Vocabulary.from_counts({"a,b": 9, "c": 5})  # ids 3, 4
LOGITS = np.array([[9, 9, 9], [2, 1, 0], [9, 9, 9], [0, 1, 3], [0, 5, 4]], np.float32)
# Line 7 is <S> 3 4. Line 2 is split: <S> 3, and 4 3 from position 2 on.
BATCHES = [
    NumberedBatch(np.array([[1, 3, 4], [4, 3, 0]], np.int32), np.array([7, 2]), np.array([0, 2])),
    NumberedBatch(np.array([[1, 3]], np.int32), np.array([2]), np.array([0])),
]
ONE, TWO = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))  # gate values for logit differences 1 and 2
EXPECTED = [
    (2, 0, "<S>", "moe", 0, ONE, 1),
    (2, 0, "<S>", "moe", 1, 1 - ONE, 2),
    (2, 1, "a,b", "moe", 2, TWO, 1),
    (2, 1, "a,b", "moe", 1, 1 - TWO, 2),
    (2, 2, "c", "moe", 1, ONE, 1),
    (2, 2, "c", "moe", 2, 1 - ONE, 2),
    (2, 3, "a,b", "moe", 2, TWO, 1),
    (2, 3, "a,b", "moe", 1, 1 - TWO, 2),
    (7, 0, "<S>", "moe", 0, ONE, 1),
    (7, 0, "<S>", "moe", 1, 1 - ONE, 2),
    (7, 1, "a,b", "moe", 2, TWO, 1),
    (7, 1, "a,b", "moe", 1, 1 - TWO, 2),
    (7, 2, "c", "moe", 1, ONE, 1),
    (7, 2, "c", "moe", 2, 1 - ONE, 2),
]
NAMES = ("sentence", "position", "token", "layer", "expert", "gate", "rank")


def make_model(gate):
    """A model in which the gate logits of a token are the row of its word in `LOGITS`."""
    layer = MoE(num_experts=3, hidden_units=2, gate=gate, name="moe")
    model = LanguageModel(5, 3, residual_blocks([layer]))
    model.build((None, None))
    model.embedding.embeddings.assign(LOGITS)
    layer.gate.weights[0].assign(np.eye(3, dtype=np.float32))  # W_g
    return model


def assert_expected_rows(rows):
    rows = list(rows)
    assert len(rows) == len(EXPECTED)
    for row, expected in zip(rows, EXPECTED, strict=True):
        assert tuple(row) == (*expected[:5], pytest.approx(expected[5], rel=1e-5), expected[6])


def test_table_without_pandas():
    routed = route_text(make_model(NoisyTopK(k=2)), BATCHES)
    table = routing_table(routed, VOCABULARY, pandas=False)
    assert table.dtype.names == NAMES
    assert_expected_rows(table.tolist())


def test_table_with_pandas():
    pandas = pytest.importorskip("pandas")
    table = routing_table(route_text(make_model(NoisyTopK(k=2)), BATCHES), VOCABULARY)
    assert isinstance(table, pandas.DataFrame) and tuple(table.columns) == NAMES
    assert_expected_rows(table.itertuples(index=False))


def test_pandas_is_not_installed(monkeypatch):
    """By default the result is an array; `pandas=True` raises an error."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    routed = route_text(make_model(NoisyTopK(k=2)), BATCHES)
    assert isinstance(routing_table(routed, VOCABULARY), np.ndarray)
    with pytest.raises(ModuleNotFoundError, match="pandas"):
        routing_table(routed, VOCABULARY, pandas=True)


def test_csv(tmp_path):
    routed = route_text(make_model(NoisyTopK(k=2)), BATCHES)
    write_routing_table(routed, VOCABULARY, tmp_path / "new" / "table.csv")
    with open(tmp_path / "new" / "table.csv", newline="") as file:
        head, *rows = csv.reader(file)
    assert tuple(head) == NAMES
    assert rows[3] == ["2", "1", "a,b", "moe", "1", f"{1 - TWO:.6g}", "2"]
    assert len(rows) == len(EXPECTED)
    formulas = data_pipelines.Vocabulary.from_counts({"=1+1": 9, "'s": 5})
    write_routing_table(routed, formulas, tmp_path / "table.csv")
    with open(tmp_path / "table.csv", newline="") as file:
        tokens = [row[2] for row in csv.reader(file)][1:]
    assert set(tokens) == {"<S>", "'=1+1", "''s"}
    names = {"a,b": "=1+1", "c": "'s", "<S>": "<S>"}
    assert [token.removeprefix("'") for token in tokens] == [names[row[2]] for row in EXPECTED]


def test_rows_of_plain_batches_are_numbered_consecutively():
    batch = np.array([[1, 3], [1, 4]], np.int32), np.array([[3, 0], [4, 0]], np.int32)
    routed = route_text(make_model(NoisyTopK(k=2)), [batch, batch])["moe"]
    assert routed.lines.tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    assert routed.positions.tolist() == [0, 1] * 4


def test_tokens_without_an_expert_have_no_row():
    """Thresholds of 0.4: one value of softmax(2, 1, 0) = 0.67, 0.24, 0.09 exceeds it. With the
    three equal logits of an unknown word, none does.
    """
    batch = np.array([[1, 2]], np.int32), np.zeros((1, 2), np.int32)
    model = make_model(Batchwise(k=1))
    model.blocks[0].layer.gate.log_thresholds.assign(np.log([0.4] * 3))
    routed = route_text(model, [batch])
    assert len(routed["moe"].tokens) == 2
    table = routing_table(routed, VOCABULARY, pandas=False)
    assert table.tolist() == [(1, 0, "<S>", "moe", 0, 1.0, 1)]


AFTER = {"c": [(2, "a,b"), (7, "")], "<S>": [(2, "a,b c"), (7, "a,b c")]}


def test_contexts_with_equal_gate_values_are_from_random_positions():
    """All gate values are 1: the contexts are not from the first positions only."""
    model = make_model(Batchwise(k=1))
    model.blocks[0].layer.gate.log_thresholds.assign(np.log([0.4] * 3))
    batch = np.ones((50, 1), np.int32), None
    routed = route_text(model, [batch])["moe"]._replace(tokens=np.arange(50) % 4)
    result = contexts(routed, 0, VOCABULARY, number=4)
    assert [context.gate for context in result] == [1.0] * 4
    assert max(context.sentence for context in result) > 10


def test_contexts():
    """Expert 1 has gate values of 0.73 at c and of 0.27 at <S>, in lines 2 and 7. Both lines are
    equal up to these tokens, so each context is shown once.
    """
    routed = route_text(make_model(NoisyTopK(k=2)), BATCHES)["moe"]
    result = contexts(routed, 1, VOCABULARY, number=2, around=2)
    assert [(context.position, context.before, context.token) for context in result] == [
        (2, "<S> a,b", "c"),
        (0, "", "<S>"),
    ]
    assert all((context.sentence, context.after) in AFTER[context.token] for context in result)
    np.testing.assert_allclose([context.gate for context in result], [ONE, 1 - ONE], rtol=1e-5)
    for expert in (-1, 3):
        with pytest.raises(ValueError, match=f"expert must be a number from 0 to 2, got {expert}"):
            contexts(routed, expert, VOCABULARY)


def test_contexts_of_subwords():
    subwords = data_pipelines.Subwords.train(["one two", "three"] * 20, 30)
    ids = [1, *subwords.encode("one two")]
    layer = MoE(num_experts=2, hidden_units=2, gate=NoisyTopK(k=2), name="moe")
    model = LanguageModel(len(subwords), 3, residual_blocks([layer]))
    model.build((None, None))
    routed = route_text(model, [(np.array([ids]), None)])["moe"]
    result = contexts(routed, 0, subwords, number=99, around=99)
    texts = {context.before + context.token + context.after for context in result}
    assert texts == {"<s> one two"}


def test_translation():
    """The encoder's mixture routes the source, the decoder's mixture the target. Routing does not
    depend on the rest of the batch.
    """
    keras.utils.set_random_seed(0)
    encoder = MoE(num_experts=4, hidden_units=4, gate=NoisyTopK(k=2), name="in")
    decoder = MoE(num_experts=3, hidden_units=4, gate=NoisyTopK(k=2), name="out")
    model = TranslationModel(
        9,
        6,
        residual_blocks([encoder]),
        residual_blocks([AttentionLSTM(6, name="attention"), decoder]),
    )
    model.build((None, None))
    for layer in (encoder, decoder):
        kernel = layer.gate.weights[0]
        kernel.assign(np.random.default_rng(0).normal(size=kernel.shape))
    source = np.array([[5, 6, 7], [8, 0, 0]], np.int32)
    target = np.array([[1, 4, 0, 0], [1, 3, 5, 6]], np.int32)
    in_batch = route_text(model, [NumberedBatch((source, target), np.array([1, 2]), np.zeros(2))])
    assert list(in_batch) == ["in", "out"]
    assert in_batch["in"].tokens.tolist() == [5, 6, 7, 8]
    assert in_batch["out"].tokens.tolist() == [1, 4, 1, 3, 5, 6]
    assert in_batch["out"].lines.tolist() == [1, 1, 2, 2, 2, 2]
    alone = route_text(
        model, [((source[:1], target[:1, :2]), None), ((source[1:, :1], target[1:]), None)]
    )
    for name in ("in", "out"):
        for one, other in zip(in_batch[name], alone[name], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5)


def test_noise_by_hand():
    """softplus(x·W_noise) with W_noise = 1 is ln 2 for x = (0, 0) and ln(1 + e²) for x = (1, 1)."""
    gate = NoisyTopK(k=1, noise_floor=0.5, load_weight=0.1).for_experts(3)
    gate.build((None, 2))
    gate.weights[1].assign(np.ones((2, 3)))
    noise = noise_deviation(gate, np.array([[0, 0], [1, 1]], np.float32))
    expected = 0.5 + (np.log(2) + np.log(1 + np.exp(2))) / 2
    assert {name: float(value) for name, value in noise.items()} == {
        "noise": pytest.approx(expected)
    }
    without_noise = NoisyTopK(k=2, noise=False).for_experts(3)
    without_noise.build((None, 2))
    assert noise_deviation(without_noise, np.zeros((1, 2), np.float32)) == {}


def test_noise_of_a_hierarchical_gate():
    """W_noise of the primary gate is 0: ln 2. Only group 0 is selected: the noise of its gate."""
    layer = MoE(num_experts=4, hidden_units=2, groups=2, gate=NoisyTopK(k=1, load_weight=0.1))
    layer.build((None, 2))
    gate = layer.gate
    inputs = np.ones((3, 2), np.float32)
    primary, noise = gate.primary.kernels["gate_kernel"], gate.secondary.kernels["noise_kernel"]
    primary.assign([[1, 0], [1, 0]])  # group 0
    noise.assign([np.ones((2, 2)), np.full((2, 2), 9)])
    deviations = noise_deviation(gate, inputs)
    assert float(deviations["primary_noise"]) == pytest.approx(np.log(2))
    assert float(deviations["secondary_noise"]) == pytest.approx(np.log(1 + np.exp(2)))
