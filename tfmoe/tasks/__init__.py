"""What one does with a config or a run: train, evaluate, translate, export, inspect, compare.

Names are imported on first use: the command line answers `--help` at once, and loads TensorFlow
(without its log messages) only when a command starts to work.
"""

import importlib

from tfmoe.tasks.tensorflow_import import import_tensorflow

_MODULES = {
    "build_batches": "tfmoe.tasks.text_batches",
    "build_parallel_batches": "tfmoe.tasks.text_batches",
    "build_splits": "tfmoe.tasks.corpora",
    "build_subwords": "tfmoe.tasks.vocabularies",
    "build_translator": "tfmoe.tasks.translation",
    "build_vocabulary": "tfmoe.tasks.vocabularies",
    "config_keys": "tfmoe.config.keys",
    "describe_config": "tfmoe.tasks.describe",
    "description": "tfmoe.tasks.describe",
    "evaluate_ngrams": "tfmoe.tasks.ngrams",
    "evaluate_run": "tfmoe.tasks.evaluate",
    "examination_as_json": "tfmoe.tasks.doctor",
    "examination_summary": "tfmoe.tasks.doctor",
    "examine_run": "tfmoe.tasks.doctor",
    "export_run": "tfmoe.tasks.export",
    "find_splits": "tfmoe.tasks.corpora",
    "inspect_run": "tfmoe.tasks.inspect",
    "inspection_as_json": "tfmoe.inspection.report",
    "inspection_summary": "tfmoe.inspection.summary",
    "keys_as_json": "tfmoe.config.keys",
    "keys_text": "tfmoe.config.keys",
    "launch_command": "tfmoe.tasks.launch",
    "launch_workers": "tfmoe.tasks.launch",
    "load_run": "tfmoe.tasks.runs",
    "load_vocabulary": "tfmoe.tasks.runs",
    "prune_run": "tfmoe.tasks.prune",
    "prune_table": "tfmoe.tasks.prune",
    "recompute_tables": "tfmoe.tasks.paper_tables",
    "tables_report": "tfmoe.tasks.paper_tables",
    "ngrams_summary": "tfmoe.tasks.ngrams",
    "prepare_config": "tfmoe.tasks.train",
    "run_comparison": "tfmoe.tasks.compare",
    "run_demo": "tfmoe.tasks.demo",
    "run_sweep": "tfmoe.tasks.ablation",
    "task_of": "tfmoe.tasks.registry",
    "train_config": "tfmoe.tasks.train",
    "train_run": "tfmoe.tasks.train",
    "translate_lines": "tfmoe.tasks.translate",
    "translator_of": "tfmoe.tasks.translate",
    "upcycle_run": "tfmoe.tasks.upcycle",
    "where_to_go_on": "tfmoe.tasks.resume_hint",
}

__all__ = ["import_tensorflow", *_MODULES]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_tensorflow()
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__():
    return sorted([*globals(), *_MODULES])
