"""The versions of KerasHub with which this package was tested."""

from importlib import metadata

from tfmoe.extras import require

# `[first, last)`, as in the extra `keras-hub` of pyproject.toml.
TESTED = (0, 32), (0, 33)


def check_version() -> None:
    """Checks that KerasHub is installed, in a tested version.

    Raises:
        MissingExtra: it is not installed.
        RuntimeError: the version was not tested.
    """
    require("keras_hub")
    installed = metadata.version("keras-hub")
    if not TESTED[0] <= release(installed) < TESTED[1]:
        first, last = (".".join(map(str, version)) for version in TESTED)
        raise RuntimeError(
            f"keras-hub {installed} is installed, but tfmoe.keras_hub was tested with versions "
            f'from {first} and below {last}: pip install "keras-hub>={first},<{last}"'
        )


def release(version: str) -> tuple[int, ...]:
    """The first two numbers of a version: `"0.32.1"` to `(0, 32)`."""
    return tuple(int(part) for part in version.split(".")[:2])
