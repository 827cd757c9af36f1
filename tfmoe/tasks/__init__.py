"""What people do with a config or a run: train, evaluate, translate, export, inspect, compare.

Names are imported when they are first used: the command line answers `--help` at once, and loads
TensorFlow, without its chatter, when a command begins to work.
"""

import importlib

from tfmoe.tasks.tensorflow_import import import_tensorflow

_HOMES = {
    "build_batches": "language_modeling",
    "build_parallel_batches": "translation",
    "build_splits": "corpora",
    "build_subwords": "vocabularies",
    "build_translator": "translation",
    "build_vocabulary": "vocabularies",
    "find_splits": "corpora",
    "load_run": "runs",
    "load_vocabulary": "runs",
    "task_of": "registry",
}

__all__ = ["import_tensorflow", *_HOMES]


def __getattr__(name):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_tensorflow()
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOMES])
