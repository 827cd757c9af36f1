"""Configs: YAML files, validated, made into models, optimizers and data.

Names are imported when they are first used, so that listing the shipped configs does not load
TensorFlow.
"""

import importlib

_HOMES = {
    "Config": "schema",
    "ConfigError": "problems",
    "build_batches": "builders",
    "build_model": "builders",
    "build_optimizer": "builders",
    "build_splits": "builders",
    "build_vocabulary": "builders",
    "dump_config": "loader",
    "find_config": "shipped",
    "find_splits": "runs",
    "load_config": "loader",
    "load_run": "runs",
    "load_vocabulary": "runs",
    "shipped_configs": "shipped",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
