"""Optional packages: those of the extras in pyproject.toml.

A module declares such a package at its head, and the package is imported when it is first used:

    from tfmoe.extras import optional

    ticker = optional("matplotlib.ticker")

So every module of tfmoe can be imported with the core dependencies alone.
"""

import functools
import importlib
import importlib.util
import types
from typing import Any

# `{package: the extra that installs it}`.
EXTRAS = {
    "babel": "text",
    "num2words": "text",
    "sacrebleu": "text",
    "sentencepiece": "text",
    "tensorflow_text": "text",
    "matplotlib": "plots",
    "pandas": "notebooks",
    "pyarrow": "parquet",
    "datasets": "huggingface",
    "safetensors": "huggingface",
    "tensorflow_datasets": "tfds",
    "keras_hub": "keras-hub",
    "onnx": "serving",
    "onnxruntime": "serving",
    "tf2onnx": "serving",
    "ai_edge_litert": "serving",
}
WITHOUT_WHEELS = {"tensorflow_text": "on Linux and macOS; there is none for Windows"}


class MissingExtra(ModuleNotFoundError):
    """A package of an extra is not installed."""

    def __init__(self, package):
        where = f" ({WITHOUT_WHEELS[package]})" if package in WITHOUT_WHEELS else ""
        super().__init__(
            f'this needs the package {package}: pip install "tfmoe[{EXTRAS[package]}]"{where}',
            name=package,
        )


class _Optional(types.ModuleType):
    """Proxy of a module, which imports it when an attribute is read."""

    def __getattr__(self, name):
        if name.startswith("__"):  # read by tools that inspect modules
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(_loaded(self.__name__), name)


def optional(module: str) -> Any:
    """Returns a proxy of a module of `EXTRAS`, which imports the module when it is first used.

    Args:
        module: full name, such as `"matplotlib.ticker"`.

    Returns:
        An object with the module's attributes. Reading one of them raises `MissingExtra` if the
        package is not installed.

    Raises:
        KeyError: if no extra contains the package.
    """
    EXTRAS[_package(module)]
    return _Optional(module)


def is_installed(package: str) -> bool:
    """Whether a package of `EXTRAS` can be imported."""
    return importlib.util.find_spec(package) is not None


def require(*packages: str) -> None:
    """Checks, before long work, that packages are installed.

    Args:
        packages: names in `EXTRAS`.

    Raises:
        MissingExtra: if one of them is not installed.
    """
    for package in packages:
        if not is_installed(package):
            raise MissingExtra(package)


@functools.cache
def _loaded(module):
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = _package(module)
        if error.name != package:
            raise  # it is installed, but one of its dependencies is missing
        raise MissingExtra(package) from None


def _package(module):
    return module.partition(".")[0]
