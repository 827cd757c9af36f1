"""Losses, all checks together, findings as text and JSON."""

import json
import math

import pytest

from tfmoe.inspection.doctor import (
    KINDS,
    Change,
    Figure,
    Mixture,
    Setting,
    Settings,
    check_training,
    findings_of,
    short,
)
from tfmoe.inspection.doctor.losses import check_divergence, check_overfitting
from tfmoe.inspection.doctor.mixture import Limit

RATE = Setting("training.optimizer.learning_rate", 0.005)


def losses(*values, validation=None):
    validation = validation or [None] * len(values)
    pairs = zip(values, validation, strict=True)
    return [{"loss": a, **({} if b is None else {"val_loss": b})} for a, b in pairs]


@pytest.mark.parametrize(
    ("rows", "uniform"),
    [
        (losses(math.nan), None),
        (losses(math.inf), 3.9),
        (losses(2.0, 1.0, 1.3), None),
        (losses(15.1, 26.6, 14.0, 10.8, validation=[37.8, 17.3, 10.8, 9.7]), 3.9),
        (losses(7.4e7, validation=[1.7e8]), 3.9),
        (losses(2.0, validation=[math.nan]), None),
    ],
)
def test_divergence(rows, uniform):
    (each,) = check_divergence(rows, uniform, RATE)
    assert (each.finding.kind, each.finding.severity) == ("divergence", "problem")
    assert each.finding.changes == (
        Change("training.optimizer.learning_rate", pytest.approx(0.0005), 0.005),
    )


@pytest.mark.parametrize(
    ("rows", "uniform"),
    [
        (losses(3.5, 3.1, 2.9, 2.95), None),
        (losses(3.5), 3.9),
        (losses(4.4, validation=[3.2]), 3.9),  # balancing losses are in the first alone
        (losses(-1.0, -2.0), None),
    ],
)
def test_no_divergence(rows, uniform):
    (each,) = check_divergence(rows, uniform, RATE)
    assert each.finding is None


TRAINING = [3.786, 3.214, 3.003, 2.873, 2.770, 2.683, 2.590, 2.492, 2.375, 2.241]
VALIDATION = [3.449, 3.274, 3.149, 3.126, 3.113, 3.115, 3.118, 3.151, 3.150, 3.156]


@pytest.mark.parametrize(
    ("dropout", "change"),
    [(0.0, "model.dropout=0.1"), (0.45, "model.dropout=0.5"), (0.5, "training.epochs=5"),
     (None, "training.epochs=5")],
)  # fmt: skip
def test_overfitting(dropout, change):
    """300 sentences by heart."""
    rows = losses(*TRAINING, validation=VALIDATION)
    dropout = None if dropout is None else Setting("model.dropout", dropout)
    (each,) = check_overfitting(rows, Setting("training.epochs", 10), dropout)
    assert (each.finding.kind, each.finding.severity) == ("overfitting", "warning")
    assert (each.figure.value, each.figure.most) == (3.150, pytest.approx(1.01 * 3.113))
    assert "3.11 in epoch 5" in each.finding.cause
    assert [proposed.assignment() for proposed in each.finding.changes] == [change]


def test_no_overfitting():
    (each,) = check_overfitting(losses(*TRAINING[:7], validation=VALIDATION[:7]))
    assert each.finding is None
    # One bad epoch is noise; a loss that rises in training too is something else.
    (each,) = check_overfitting(losses(3, 2, 1, validation=[3.0, 2.0, 2.5]))
    assert each.finding is None
    assert check_overfitting(losses(2, 3, 4, validation=[2.0, 3.0, 4.0])) == []
    assert check_overfitting(losses(3, 2, 1)) == []


MIXTURE = Mixture("moe", 64, 2, weights=(("gate.load_weight", 0.0),), tokens=4096)


def rows_of(load, unused, loss=2.0):
    return [
        {"loss": loss, "moe_cv_importance": load, "moe_cv_load": load, "moe_unused_experts": unused}
    ] * 3


def kinds(rows, sample=None, mixtures=(MIXTURE,)):
    return [each.kind for each in findings_of(check_training(list(mixtures), rows, sample))]


def test_one_cause_is_told_once():
    assert kinds(rows_of(1.0, 0.3)) == ["balancing_off", "dead_experts"]
    assert kinds(rows_of(4.0, 0.8)) == ["collapse"]
    assert kinds(rows_of(0.1, 0.3), {"moe/gate_entropy": 0.0}) == ["saturated_gate"]
    assert kinds(rows_of(4.0, 0.8, loss=math.nan)) == ["divergence"]
    assert kinds(rows_of(0.1, 0.0)) == []


def test_the_worst_comes_first():
    limited = MIXTURE._replace(limits=(Limit("capacity_factor", 8.0, 8.0),), tokens=64)
    rows = [{**row, "moe_max_over_mean_load": 1.5} for row in rows_of(6.0, 0.8)]
    assert kinds(rows, mixtures=[limited]) == [
        "collapse",
        "small_expert_batch",
        "capacity_too_large",
    ]


def test_a_dense_model():
    settings = Settings(learning_rate=RATE)
    assert [each.figure.name for each in check_training([], losses(3.0), settings=settings)] == [
        "loss"
    ]


def test_every_kind_is_told_of_by_its_function():
    for kind, function in KINDS.items():
        assert f"`{kind}`" in function.__doc__


def test_findings_as_text_and_json():
    (finding,) = findings_of(check_training([MIXTURE], rows_of(3.946, 0.8)))
    assert str(finding).startswith("moe: collapse: moe_cv_load is 3.95; healthy: at most 1.86. ")
    assert str(finding).endswith("never learn. Set gate.load_weight=0.1 (now 0).")
    as_json = json.loads(json.dumps(finding.as_json(), allow_nan=False))
    assert as_json["changes"] == [{"key": "gate.load_weight", "value": 0.1, "now": 0.0}]
    assert (as_json["value"], as_json["least"]) == (3.946, None)
    (finding,) = findings_of(check_training([], losses(math.nan)))
    assert json.loads(json.dumps(finding.as_json(), allow_nan=False))["value"] == "nan"


def test_limits_in_words():
    assert Figure("x", 1.0, most=2.0).limits() == "at most 2"
    assert Figure("x", 1.0, least=0.05).limits() == "at least 0.05"
    assert Figure("x", 1.0, 1 / 3, 3.0).limits() == "0.333 to 3"
    assert Figure("x", math.inf).limits() == "finite"
    assert not Figure("x", math.inf).healthy and not Figure("x", math.nan, most=1.0).healthy
    assert Change("key", None).assignment() == "key=null"
    assert Change("key", True).assignment() == "key=true"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (3.946, "3.95"), (12877, "12,877"), (0.00195, "0.00195"), (7.37e7, "7.37e+07"),
     (1e-6, "1e-06"), (math.nan, "nan"), (100, "100")],
)  # fmt: skip
def test_numbers(number, text):
    assert short(number) == text
