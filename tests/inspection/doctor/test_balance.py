"""Figures of runs of demo/grammars: 64 experts, 2 for a token, 4,096 tokens in a batch, so 128 for
an expert; by chance the load varies by 1/√128 = 0.088.
"""

import math

import pytest

from tfmoe.inspection.doctor.balance import check_load, check_strength, check_unused
from tfmoe.inspection.doctor.finding import Setting
from tfmoe.inspection.doctor.mixture import Mixture

WEIGHTS = (("gate.importance_weight", 0.1), ("gate.load_weight", 0.1))
OFF = tuple((name, 0.0) for name, _ in WEIGHTS)
HEALTHY = {"loss": 2.883, "moe_1_cv_importance": 0.124, "moe_1_cv_load": 0.117}


def mixture(weights=WEIGHTS, **changes):
    values = {"num_experts": 64, "selected": 2, "tokens": 4096, "noise": True, **changes}
    return Mixture("moe_1", key="model.blocks[1].", weights=weights, **values)


def row(load, **more):
    return {**HEALTHY, "moe_1_cv_load": load, **more}


def found(checks):
    (each,) = checks
    return each.finding


def test_an_even_load_is_healthy():
    (each,) = check_load(mixture(), HEALTHY)
    assert each.finding is None
    # Half way from 2 to 64 experts: 33 of 64, variation √(64/33 - 1 + 1/128).
    assert each.figure.most == pytest.approx(math.sqrt(64 / 33 - 1 + 1 / 128))


def test_collapse():
    """Variation 3.946: 64 / (1 + 3.946² - 1/128) = 3.86 experts."""
    finding = found(check_load(mixture(OFF), row(3.946)))
    assert (finding.kind, finding.severity, finding.where) == ("collapse", "problem", "moe_1")
    # A fifth of the way from 2 to 64: 14.4 experts.
    assert finding.figure.most == pytest.approx(math.sqrt(64 / 14.4 - 1 + 1 / 128))
    assert "as if only 3.86 of 64 experts" in finding.cause
    assert "No loss balances the gate (importance_weight, load_weight are 0)" in finding.cause
    assert [str(change) for change in finding.changes] == [
        "model.blocks[1].gate.importance_weight=0.1 (now 0)",
        "model.blocks[1].gate.load_weight=0.1 (now 0)",
    ]


@pytest.mark.parametrize(
    ("weights", "noise", "kind", "changes"),
    [
        (OFF, True, "balancing_off", {"importance_weight": 0.1, "load_weight": 0.1}),
        (OFF, False, "balancing_off", {"importance_weight": 0.1}),
        ((("gate.load_weight", 0.1),), True, "balancing_weak", {"load_weight": 1.0}),
        ((("gate.balance_weight", 0.0), *OFF), None, "balancing_off", {"balance_weight": 0.01}),
        ((("gate.my_weight", 0.0),), None, "balancing_off", {"my_weight": 0.1}),
        ((), None, "balancing_off", {}),
    ],
)
def test_uneven(weights, noise, kind, changes):
    """Variation 1.053: 30.4 of 64 experts."""
    finding = found(check_load(mixture(weights, noise=noise), row(1.053)))
    assert (finding.kind, finding.severity) == (kind, "warning")
    proposed = {change.key.rpartition(".")[2]: change.value for change in finding.changes}
    assert proposed == pytest.approx(changes)


@pytest.mark.parametrize(
    ("step", "kind", "change"),
    [
        (0.001, "balancing_weak", "gate.bias_step=0.01 (now 0.001)"),
        (0.0, "balancing_off", "gate.bias_step=0.001 (now 0)"),
    ],
)
def test_a_bias_that_balances_is_too_slow(step, kind, change):
    finding = found(check_load(mixture((), noise=None, bias_step=step), row(1.053)))
    assert finding.kind == kind
    assert "The bias that balances the gate changes too slowly" in finding.cause
    assert [str(each) for each in finding.changes] == [f"model.blocks[1].{change}"]


def test_few_tokens_vary_by_lot():
    """2 tokens for an expert: by chance the load varies by 0.71."""
    assert found(check_load(mixture(tokens=64), row(1.1))) is None
    assert found(check_load(mixture(), row(1.1))).kind == "balancing_weak"


def test_dense_mixtures():
    """Softmax sends every token to all experts: its load is even, only weight can collapse."""
    dense = mixture((("gate.importance_weight", 0.0),), num_experts=16, selected=16)
    assert found(check_load(dense, row(0.0, moe_1_cv_importance=0.6))) is None
    finding = found(check_load(dense, row(0.0, moe_1_cv_importance=3.5)))
    # 16 / (1 + 3.5²) = 1.21; the limit is 4 experts, √3.
    assert (finding.kind, finding.figure.name) == ("collapse", "moe_1_cv_importance")
    assert finding.figure.most == pytest.approx(math.sqrt(3))
    assert "as if only 1.21 of 16 experts" in finding.cause


def test_no_figures_no_checks():
    assert check_load(mixture(), {"loss": 1.0}) == []
    assert check_load(mixture(num_experts=1, selected=1), HEALTHY) == []
    assert check_strength(mixture(), {"loss": 1.0}) == []
    assert check_unused(mixture(), [{"loss": 1.0}] * 3) == []
    assert found(check_load(mixture(), row(math.nan))).kind == "collapse"


EPOCHS = Setting("training.epochs", 4)


def unused(*shares, name="val_moe_1_unused_experts"):
    return [{name: share} for share in shares]


def test_dead_experts():
    """Half of 1,024 experts are idle at evaluation, though the load is even in training."""
    rows = unused(0.781, 0.564, 0.510, 0.505)
    finding = found(check_unused(mixture(num_experts=1024), rows, epochs=EPOCHS))
    assert (finding.kind, finding.severity) == ("dead_experts", "warning")
    assert "About 517 of 1024 experts" in finding.cause and "num_experts=512" in finding.cause
    assert [str(change) for change in finding.changes] == ["training.epochs=8 (now 4)"]
    # An expert gets 8 tokens: by chance e^-8 have none.
    assert finding.figure.most == pytest.approx(0.1 + math.exp(-8))


def test_dead_experts_of_an_uneven_load():
    rows = unused(0.35, 0.232, 0.445)
    finding = found(check_unused(mixture(OFF), rows, uneven=True, epochs=EPOCHS))
    assert finding.figure.value == 0.232
    assert [change.key for change in finding.changes] == [
        "model.blocks[1].gate.importance_weight",
        "model.blocks[1].gate.load_weight",
    ]


def test_a_young_gate_has_unused_experts():
    assert check_unused(mixture(), unused(0.23, 0.2)) == []
    assert found(check_unused(mixture(), unused(0.23, 0.07, 0.002))) is None
    # Without validation text, those of training.
    rows = unused(0.6, 0.7, 0.72, name="moe_1_unused_experts")
    assert found(check_unused(mixture(), rows)).figure.name == "moe_1_unused_experts"


def test_balancing_too_strong():
    """Weights of 10: 10 · 0.091² + 10 · 0.089² = 0.162 of 2.973."""
    strong = mixture(tuple((name, 10.0) for name, _ in WEIGHTS))
    finding = found(check_strength(strong, row(0.089, loss=2.973, moe_1_cv_importance=0.091)))
    assert (finding.kind, finding.severity) == ("balancing_strong", "warning")
    assert finding.figure.value == pytest.approx(0.0545, abs=1e-4)
    assert "cv_load is 0.089; by chance it would be 0.0884" in finding.cause
    assert [change.value for change in finding.changes] == [0.1, 0.1]


def test_balancing_of_usual_strength():
    assert found(check_strength(mixture(), HEALTHY)) is None
    # A small loss of the task: 0.1 · (0.2² + 0.2²) is 40% of 0.02, and no harm.
    small = {"loss": 0.02, "moe_1_cv_importance": 0.2, "moe_1_cv_load": 0.2}
    assert found(check_strength(mixture(), small)) is None
    # Of a collapsed mixture the loss must be large.
    assert check_strength(mixture(), row(3.9, loss=3.0)) == []
    assert check_strength(mixture(OFF), HEALTHY) == []


def test_balancing_of_switch():
    """α · (1 + CV²): 10 · (1 + 0.315²) of 12.877."""
    switch = mixture((("gate.balance_weight", 10.0),), selected=1)
    finding = found(check_strength(switch, row(0.315, loss=12.877)))
    assert finding.figure.value == pytest.approx(10 * (1 + 0.315**2) / 12.877)
    assert [str(change) for change in finding.changes] == [
        "model.blocks[1].gate.balance_weight=0.01 (now 10)"
    ]
