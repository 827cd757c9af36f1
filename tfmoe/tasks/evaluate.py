"""Evaluates a trained run."""

import os
from collections.abc import Sequence
from typing import Any

from tfmoe.config.loader import load_config
from tfmoe.data_pipelines.changes import stamps, unchanged
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run
from tfmoe.training.callbacks import Progress
from tfmoe.training.run_directory import RunDirectory


def evaluate_run(
    path: str | os.PathLike,
    data: Sequence[str] | None = None,
    direction: str | None = None,
    weights: str = "best",
) -> tuple[dict[str, Any], str]:
    """Evaluates the model of a run.

    Args:
        path: the run's folder.
        data: paths, globs or prefixes of files; `None` for the run's test text.
        direction: a direction of a multilingual model, `"en-fr"`; `None` for all directions, or
            for the only one.
        weights: `"best"` or `"last"`.

    Returns:
        The result of the task's `evaluate`, and a summary of it as text.

    Raises:
        FileNotFoundError: if the folder has no run.
        ValueError: if there is no text, or the run cannot be evaluated on it.
    """
    run = RunDirectory(path)
    run.check()
    task = task_of(load_config(run.config))
    files = task.find_files(data, direction) if data or direction else task.splits.test
    if not files:
        raise ValueError(f"{path} has no test text (data.test in its config): give one with --data")
    with unchanged(stamps(task.names_of(files))):
        task.survey(files)  # checks the text before a large model is loaded
        config, vocabulary, model = load_run(path, weights)
        model.compile(jit_compile=config.training.jit_compile)
        result = task.evaluate(model, vocabulary, files, [Progress()], verbosity())
    return result, task.summary(result)
