"""Training on R devices equals training on one, for every gate in every mixture, as
`tfmoe.testing` compares it.
"""

import functools

import pytest
import tensorflow as tf
from conformance.gates import (
    AS_LEVEL,
    FULLY_TESTED,
    GATES,
    RECURRENT,
    VARIANTS,
    case_of,
    is_quick,
)

from tfmoe import gating
from tfmoe.testing.device_checks import check_devices, updates
from tfmoe.testing.device_runs import TOLERANCE, check_equal

pytestmark = pytest.mark.filterwarnings(
    "ignore:NoisyTopK with k=1", "ignore:ExpertChoice:UserWarning"
)

case = functools.cache(case_of)  # tests share what one device computes


def train(variant, replicas, dtype, kind=None, **options):
    return case(variant).trained_on(replicas, dtype, kind, **options)


def quick_if(names, quick):
    """Names as test parameters; those not in `quick` are marked slow."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in names]


def ids(variant):
    return f"{variant[0]}-{variant[1]}"


def test_every_gate_is_tested():
    assert set(GATES) == set(gating.GATES)


def variants_on_devices():
    """Variants on 2 and on 4 devices. `make test` runs `flat` mixtures of the gates in
    `FULLY_TESTED` on 4 devices, and other quick variants on 2.
    """
    for gate, mixture in VARIANTS:
        for replicas in (2, 4):
            devices = 4 if mixture == "flat" and gate in FULLY_TESTED else 2
            quick = replicas == devices and is_quick((gate, mixture))
            marks = () if quick else pytest.mark.slow
            yield pytest.param(
                (gate, mixture), replicas, marks=marks, id=f"{gate}-{mixture}-{replicas}"
            )


@pytest.mark.parametrize(("variant", "replicas"), variants_on_devices())
def test_float64(variant, replicas):
    check_devices(case(variant), replicas)


@pytest.mark.parametrize(
    ("name", "replicas"),
    [
        pytest.param(name, n, marks=() if (name, n) == ("batchwise", 4) else pytest.mark.slow)
        for name in AS_LEVEL
        for n in (2, 4)
    ],
)
def test_groups_that_the_devices_do_not_divide(name, replicas):
    """2 devices have 2 groups and 1 group; of 4 devices none has a whole group."""
    check_devices(case((name, "few groups")), replicas)


@pytest.mark.slow
@pytest.mark.parametrize("priority", ["position", "weight", "choice"])
def test_capacity_of_divided_groups(priority):
    options = {"capacity_factor": 1.1, "capacity_priority": priority}
    variant = ("noisy_top_k", "few groups")
    actual, expected = (train(variant, n, "float64", **options) for n in (4, None))
    check_equal(actual, expected, TOLERANCE["float64"])


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("mixture", RECURRENT)
@pytest.mark.parametrize("name", ["noisy_top_k", "softmax", "top_k"])
def test_recurrent_mixture(name, mixture, replicas):
    check_devices(case((name, mixture)), replicas)


@pytest.mark.parametrize("name", quick_if(GATES, (*FULLY_TESTED, "hierarchical")))
def test_float32(name):
    check_devices(case((name, "flat")), 2, "float32")


@pytest.mark.parametrize("name", quick_if(GATES, (*FULLY_TESTED, "hierarchical")))
def test_mirrored_strategy(name):
    """Every replica holds all experts, and has its own losses, of the global batch."""
    actual = train((name, "flat"), 2, "float64", tf.distribute.MirroredStrategy)
    check_equal(actual, train((name, "flat"), None, "float64"), TOLERANCE["float64"])


@pytest.mark.parametrize("variant", VARIANTS, ids=ids)
def test_every_weight_is_trained(variant):
    """Otherwise the tests above would compare initial values."""
    updates(case(variant))
    assert all(train(variant, None, "float64").trained.values())  # no weight is constant


@pytest.mark.slow
@pytest.mark.parametrize("name", ["batchwise", "hierarchical", "switch", "expert_threshold"])
def test_gate_that_communicates_in_a_recurrent_mixture(name):
    with pytest.raises(ValueError, match=r"replicas cannot communicate .*gate_from='input'"):
        train((name, "state"), 2, "float64")
    check_devices(case((name, "at once")), 2)
