"""Configs: YAML files, validated and turned into models, optimizers and strategies.

Names are imported on first use, so listing the shipped configs does not load TensorFlow.
"""

import importlib

_MODULES = {
    "Comparison": "tfmoe.config.comparison",
    "Config": "tfmoe.config.schema",
    "ConfigError": "tfmoe.config.problems",
    "build_model": "tfmoe.config.builders",
    "build_optimizer": "tfmoe.config.builders",
    "build_strategy": "tfmoe.config.builders",
    "dump_config": "tfmoe.config.loader",
    "find_comparison": "tfmoe.config.shipped",
    "find_config": "tfmoe.config.shipped",
    "load_comparison": "tfmoe.config.comparison",
    "load_config": "tfmoe.config.loader",
    "shipped_comparisons": "tfmoe.config.shipped",
    "shipped_configs": "tfmoe.config.shipped",
}
# Old names, now in `tfmoe.tasks`.
_MOVED = (
    "build_batches",
    "build_parallel_batches",
    "build_splits",
    "build_subwords",
    "build_translator",
    "build_vocabulary",
    "find_splits",
    "load_run",
    "load_vocabulary",
    "task_of",
)

__all__ = [*_MODULES, *_MOVED]


def __getattr__(name):
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "tfmoe.tasks")), name)


def __dir__():
    return sorted([*globals(), *__all__])
