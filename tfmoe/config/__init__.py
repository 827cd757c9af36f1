"""Configs: YAML files, validated, made into models, optimizers and data.

Names are imported when they are first used, so that listing the shipped configs does not load
TensorFlow.
"""

import importlib

_HOMES = {
    "Config": "schema",
    "ConfigError": "problems",
    "build_batches": "language_data",
    "build_model": "builders",
    "build_optimizer": "builders",
    "build_parallel_batches": "translation_data",
    "build_splits": "language_data",
    "build_strategy": "builders",
    "build_subwords": "translation_data",
    "build_translator": "translation_task",
    "build_vocabulary": "language_data",
    "dump_config": "loader",
    "find_config": "shipped",
    "find_splits": "corpora",
    "load_config": "loader",
    "load_run": "runs",
    "load_vocabulary": "runs",
    "shipped_configs": "shipped",
    "task_of": "tasks",
}

__all__ = list(_HOMES)


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
