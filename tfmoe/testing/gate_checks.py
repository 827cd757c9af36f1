"""All checks of gates."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import keras

from tfmoe.gating import Gate
from tfmoe.testing.compiled_checks import portable, static_shapes, xla
from tfmoe.testing.configuration_checks import configuration
from tfmoe.testing.device_checks import four_devices, two_devices, updates
from tfmoe.testing.gate_case import GateCase, gate_cases
from tfmoe.testing.logical_devices import cpu_names
from tfmoe.testing.routing_checks import dense_formula, function, order, padding, routing
from tfmoe.testing.training_checks import (
    evaluation,
    keras_file,
    metrics,
    mixed_precision,
    parameters,
    reproducible,
    saved_model,
    training,
    weights_file,
)

GATE_CHECKS: dict[str, Callable[[GateCase], None]] = {
    check.__name__: check
    for check in (
        configuration,
        routing,
        dense_formula,
        function,
        padding,
        order,
        static_shapes,
        xla,
        portable,
        training,
        metrics,
        evaluation,
        keras_file,
        weights_file,
        saved_model,
        parameters,
        mixed_precision,
        reproducible,
        updates,
        two_devices,
        four_devices,
    )
}


def check_gate(
    gate: Gate | str | dict,
    mixtures: Iterable[str] | Mapping[str, Callable[[Any], dict]] | None = None,
    num_experts: int = 12,
    skip: Iterable[str] = (),
    verbose: int = 1,
) -> None:
    """Runs all checks of a gate in all mixtures. It takes about three minutes on a
    processor.

    The checks compare training on 1, 2 and 4 devices, so call `use_logical_devices(4)` before
    anything else.

    Args:
        gate: as for `gate_cases`.
        mixtures: as for `gate_cases`.
        num_experts: as for `gate_cases`.
        skip: names in `GATE_CHECKS` that are not run.
        verbose: 1 for a progress bar, 0 for none.

    Raises:
        AssertionError: a check failed. The message has its name, the mixture, what does not hold
            and what is usually wrong.
        RuntimeError: TensorFlow has less than 4 logical CPUs.
        ValueError: a name in `skip` is not in `GATE_CHECKS`.

    Example:
        >>> from tfmoe.testing import GATE_CHECKS, check_gate
        >>> skip = {*GATE_CHECKS} - {"routing", "order"}
        >>> check_gate(TopK(k=2), mixtures=["flat"], skip=skip, verbose=0)
    """
    skip = [skip] if isinstance(skip, str) else [*skip]
    unknown = [name for name in skip if name not in GATE_CHECKS]
    if unknown:
        raise ValueError(f"skip must be among {', '.join(GATE_CHECKS)}, got {unknown[0]!r}")
    checks = [check for name, check in GATE_CHECKS.items() if name not in skip]
    if four_devices in checks or two_devices in checks:
        cpu_names(4 if four_devices in checks else 2)
    cases = gate_cases(gate, mixtures, num_experts)
    progress = keras.utils.Progbar(len(cases) * len(checks), unit_name="check", verbose=verbose)
    for mixture, case in cases.items():
        check_is_accepted(case, mixture)
        for check in checks:
            check(case)
            progress.add(1)


def check_is_accepted(case, mixture):
    """Raises an `AssertionError` if a mixture refuses the gate."""
    try:
        case.make_layer()
    except ValueError as error:
        raise AssertionError(
            f"{case.name}: the mixture {mixture!r} refuses the gate: {error}\n"
            "If the gate cannot be there, give the other mixtures: "
            "check_gate(gate, mixtures=['flat'])"
        ) from error
