"""Checks of arguments."""


def check_at_least(least, **arguments):
    """Raises `ValueError` with the name of an argument that is less than `least`."""
    for name, value in arguments.items():
        if value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
