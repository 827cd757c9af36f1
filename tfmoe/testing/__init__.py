"""Checks for gates of your own: the conformance tests of the gates of `tfmoe.gating`, as functions.

    from tfmoe import testing

    testing.use_logical_devices(4)
    testing.check_gate(MyGate(k=2))

No test framework is needed. With pytest, every check is one test:

    CASES = testing.gate_cases(MyGate(k=2))

    @pytest.mark.parametrize("mixture", CASES)
    @pytest.mark.parametrize("check", testing.GATE_CHECKS)
    def test_my_gate(check, mixture):
        testing.GATE_CHECKS[check](CASES[mixture])

A check that fails raises an `AssertionError`, which says what does not hold and the usual cause.
"""

from tfmoe.testing.gate_case import MIXTURES, GateCase, gate_cases
from tfmoe.testing.gate_checks import GATE_CHECKS, check_gate
from tfmoe.testing.logical_devices import use_logical_devices

__all__ = [
    "GATE_CHECKS",
    "MIXTURES",
    "GateCase",
    "check_gate",
    "gate_cases",
    "use_logical_devices",
]
