import pytest

from tfmoe.inspection.doctor.capacity import (
    check_dropped,
    check_expert_batch,
    check_expert_size,
    check_idle_capacity,
)
from tfmoe.inspection.doctor.finding import Setting
from tfmoe.inspection.doctor.gates import check_noise, check_saturation, check_thresholds
from tfmoe.inspection.doctor.mixture import Limit, Mixture

RATE, EPOCHS = Setting("optimizer.learning_rate", 1.0), Setting("training.epochs", 4)
BATCH = Setting("data.batch_tokens", 4096)


def mixture(num_experts=64, selected=2, **values):
    return Mixture("moe_1", num_experts, selected, key="model.blocks[1].", **values)


def kinds(checks):
    return [each.finding and (each.finding.kind, each.finding.severity) for each in checks]


def changes(checks):
    return [str(change) for each in checks for change in each.finding.changes]


@pytest.mark.parametrize(
    ("entropy", "selected", "expected"),
    [
        (0.985, 2, None),
        (0.406, 2, None),  # of a collapsed run, which the load tells
        (0.024, 2, ("saturated_gate", "problem")),
        (0.08, 4, ("saturated_gate", "problem")),  # of log2 4 = 2 bits
        (0.11, 4, None),
    ],
)
def test_saturation(entropy, selected, expected):
    checks = check_saturation(mixture(selected=selected), {"moe_1/gate_entropy": entropy}, RATE)
    assert kinds(checks) == [expected]
    if expected:
        assert changes(checks) == ["optimizer.learning_rate=0.01 (now 1)"]


def test_one_expert_has_no_entropy():
    assert check_saturation(mixture(selected=1), {"moe_1/gate_entropy": 0.0}) == []
    assert check_saturation(mixture(), {}) == []


def test_noise():
    assert kinds(check_noise(mixture(), {"moe_1/noise": 0.29})) == [None]
    gone = check_noise(mixture(), {"moe_1/primary_noise": 0.5, "moe_1/secondary_noise": 1e-4})
    assert kinds(gone) == [None, ("noise_gone", "warning")]
    assert changes(gone[1:]) == ["model.blocks[1].gate.noise_floor=0.1"]


@pytest.mark.parametrize(
    ("selected", "unrouted", "expected"),
    [
        (2.1, 0.0, [None, None]),
        (6.67, 0.0, [("thresholds_off", "warning"), None]),
        (1.1, 0.3, [("thresholds_off", "warning")] * 2),
    ],
)
def test_thresholds(selected, unrouted, expected):
    row = {"val_moe_1_experts_per_token": selected, "val_moe_1_unrouted": unrouted}
    checks = check_thresholds(mixture(), row, EPOCHS)
    assert kinds(checks) == expected
    assert (checks[0].figure.least, checks[0].figure.most) == pytest.approx((2 / 1.5, 3))
    bad = [each for each in checks if each.finding]
    assert changes(bad) == ["training.epochs=8 (now 4)"] * len(bad)
    assert all("learned" in each.finding.cause for each in bad[:1])
    # Moving averages are not trained. Without thresholds there is nothing to check.
    bad = [each for each in check_thresholds(mixture(ema=0.99), row, EPOCHS) if each.finding]
    assert kinds(bad) == [each for each in expected if each]
    assert changes(bad) == ["model.blocks[1].gate.ema=0.9 (now 0.99)"] * len(bad)
    assert all("averages over earlier" in each.finding.cause for each in bad[:1])
    assert check_thresholds(mixture(depends_on_batch=True), row, EPOCHS) == []


@pytest.mark.parametrize(
    ("factor", "dropped", "expected"),
    [
        (0.25, 0.75, ("capacity_too_small", "problem")),
        (0.8, 0.22, ("capacity_too_small", "warning")),
        (1.0, 0.042, None),
    ],
)
def test_dropped(factor, dropped, expected):
    limited = mixture(limits=(Limit("capacity_factor", factor, factor),))
    checks = check_dropped(limited, {"moe_1_dropped": dropped})
    assert kinds(checks) == [expected]
    if expected:
        assert changes(checks) == [f"model.blocks[1].capacity_factor=null (now {factor:g})"]


def test_dropped_at_evaluation():
    row = {"moe_1_dropped": 0.0, "val_moe_1_dropped": 0.4}
    limits = (
        Limit("capacity_factor", 2.0, 2.0),
        Limit("evaluation_capacity_factor", 1.0, 1.0),
        Limit("gate.evaluation_capacity_factor", 1.5, 0.75),
    )
    checks = check_dropped(mixture(limits=limits[:2]), row)[1:]
    assert kinds(checks) == [("capacity_too_small", "problem")]
    assert changes(checks) == ["model.blocks[1].evaluation_capacity_factor=null (now 1)"]
    (bad,) = check_dropped(mixture(limits=limits[1:]), row)
    assert [str(change) for change in bad.finding.changes] == [
        "model.blocks[1].evaluation_capacity_factor=null (now 1)",
        "model.blocks[1].gate.evaluation_capacity_factor=null (now 1.5)",
    ]
    assert "at most 0.75 times the mean load" in bad.finding.cause
    assert check_dropped(mixture(), row) == []


def test_idle_capacity():
    row = {"moe_1_max_over_mean_load": 1.3}

    def check_limit(*limit):
        return check_idle_capacity(mixture(limits=(Limit(*limit),)), row)

    assert kinds(check_limit("capacity_factor", 1.5, 1.5)) == [None]
    checks = check_limit("capacity_factor", 8.0, 8.0)
    assert kinds(checks) == [("capacity_too_large", "note")]
    assert changes(checks) == ["model.blocks[1].capacity_factor=1.7 (now 8)"]
    # Of a gate with 2 experts per token: 2 · 1.25 · 1.3.
    checks = check_limit("gate.capacity_factor", 16.0, 8.0)
    assert changes(checks) == ["model.blocks[1].gate.capacity_factor=3.3 (now 16)"]
    assert check_limit("gate.capacity_factor", 16.0, 8.0, False) == []
    assert check_limit("evaluation_capacity_factor", 8.0, 8.0) == []
    assert check_idle_capacity(mixture(), row) == []


@pytest.mark.parametrize(
    ("num_experts", "batch", "expected"),
    [
        (64, BATCH, None),  # 2 · 4096 / 64 = 128 tokens
        (256, BATCH, None),  # 32
        (1024, BATCH, "data.batch_tokens=32768 (now 4096)"),  # 8: 8 times the batch
        (4096, BATCH, "model.blocks[1].num_experts=128 (now 4096)"),  # 2: 32 times is too much
        (1024, None, "model.blocks[1].num_experts=128 (now 1024)"),
    ],
)
def test_tokens_for_an_expert(num_experts, batch, expected):
    checks = check_expert_batch(mixture(num_experts, tokens=4096), batch)
    assert kinds(checks) == [expected and ("small_expert_batch", "warning")]
    if expected:
        assert changes(checks) == [expected]


def test_an_unknown_batch():
    assert check_expert_batch(mixture(), BATCH) == []


def test_small_experts():
    assert kinds(check_expert_size(mixture(), 1024, 1024)) == [None]
    checks = check_expert_size(mixture(), 96, 96)
    assert kinds(checks) == [("small_experts", "note")]
    assert changes(checks) == ["model.blocks[1].hidden_units=1536 (now 96)"]
