"""The form of a check and of its errors."""

import functools


def gate_check(holds: str, usual_cause: str):
    """A decorator of a function of a `GateCase`: any error becomes an `AssertionError` that says
    which property does not hold.

    Args:
        holds: the property, a sentence.
        usual_cause: what is usually wrong if it does not hold.
    """

    def decorator(check):
        @functools.wraps(check)
        def checked(case):
            try:
                check(case)
            except Exception as error:
                raise AssertionError(
                    f"{case.name}, check {check.__name__!r}: {type(error).__name__}: {error}\n"
                    f"What must hold: {holds}\n"
                    f"What is usually wrong: {usual_cause}"
                ) from error

        return checked

    return decorator


def require(condition: bool, message: str) -> None:
    """Raises an `AssertionError` with the message unless the condition is true."""
    if not condition:
        raise AssertionError(message)
