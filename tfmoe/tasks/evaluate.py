"""Evaluating a trained run."""

from tfmoe.config.loader import load_config
from tfmoe.data_pipelines.changes import stamps, unchanged
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run
from tfmoe.training.callbacks import Progress
from tfmoe.training.run_directory import RunDirectory


def evaluate_run(path, data=None, direction=None, weights="best"):
    """Evaluates the model of a run.

    Args:
        path: the run's folder.
        data: paths, globs or prefixes of files; `None` for the run's own test text.
        direction: `"en-fr"`, one of a multilingual model's; `None` for all, or the only one.
        weights: `"best"` or `"last"`.

    Returns:
        What the task's `evaluate` gives, and lines that say it.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if there is no text, or the run cannot be evaluated on it.
    """
    run = RunDirectory(path)
    run.check()
    task = task_of(load_config(run.config))
    files = task.find_files(data, direction) if data or direction else task.splits.test
    if not files:
        raise ValueError(f"{path} has no test text (data.test in its config): name one with --data")
    with unchanged(stamps(task.names_of(files))):
        task.survey(files)  # before a large model is loaded
        config, vocabulary, model = load_run(path, weights)
        model.compile(jit_compile=config.training.jit_compile)
        result = task.evaluate(model, vocabulary, files, [Progress()], verbosity())
    return result, task.summary(result)
