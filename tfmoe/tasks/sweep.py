"""Trains many runs, one after the other: the core of `tfmoe ablate` and `tfmoe compare`."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import keras

from tfmoe.config.data_schema import corpus_of
from tfmoe.config.schema import Config
from tfmoe.tasks.corpora import find_splits
from tfmoe.tasks.measurements import BALANCE, StepTimes, figure, measurements
from tfmoe.tasks.progress import EpochsOfStage, Stages
from tfmoe.tasks.resume import check_folder
from tfmoe.tasks.train import train_run
from tfmoe.training.run_directory import RunDirectory


class Run(NamedTuple):
    """One training of a sweep.

    Attributes:
        name: of the config or system.
        seed: seed of the training.
        config: the `Config` with that seed.
        folder: the `RunDirectory`.
    """

    name: str
    seed: int
    config: Config
    folder: RunDirectory


def run_of(folder, name, seed, config):
    """The `Run` of a config with another seed, in the folder `NAME/seed-SEED`."""
    training = config.training.model_copy(update={"seed": seed})
    config = config.model_copy(update={"training": training})
    return Run(name, seed, config, RunDirectory(folder / name / f"seed-{seed}"))


def check_runs(runs: Sequence[Run]) -> None:
    """Checks all runs before any is trained.

    Raises:
        ValueError: if a folder has a run of another config, or an unfinished run has no test text,
            or is no language model.
    """
    for run in runs:
        check_folder(run.config, run.folder, resume=True)
    for name, config in {run.name: run.config for run in runs if not is_finished(run)}.items():
        if corpus_of(config.data).kind != "language":
            raise ValueError(
                f"{name} is a {config.model.name} model: only language models can be compared"
            )
        if not find_splits(config).test:
            raise ValueError(f"data.test: is empty in {name}, but a comparison needs test text")


def is_finished(run: Run) -> bool:
    """Whether a run was trained to the end and evaluated on test text. Assumes `check_runs`."""
    if not (run.folder.begun() and run.folder.result.exists()):
        return False
    result = run.folder.read_json(run.folder.result)
    expected = {"epochs": run.config.training.epochs, "evaluated_on": "test"}
    return all(result.get(key) == value for key, value in expected.items())


def train_all(
    runs: Sequence[Run], skip_diverged: bool = False
) -> Iterator[tuple[Run, dict[str, Any]]]:
    """Trains the unfinished runs. Prints a line per run, and the time left.

    Args:
        runs: checked by `check_runs`.
        skip_diverged: whether to go on with the next run if the loss of a run is not finite.

    Yields:
        Each `Run` and its `measurements`, as soon as it is finished.

    Raises:
        FloatingPointError: if the loss of a run is not finite, unless `skip_diverged`.
    """
    logging.getLogger("tensorflow").addFilter(is_not_retracing_warning)
    finished = [is_finished(run) for run in runs]
    stages = Stages({index: int(not done) for index, done in enumerate(finished)})
    for index, run in enumerate(runs):
        if not finished[index]:
            stages.begin(index, f"{run.name}, seed {run.seed}")
            callbacks = [StepTimes(run.folder), EpochsOfStage(stages)]
            try:
                train_run(run.config, run.folder.path, resume=True, callbacks=callbacks)
            except FloatingPointError as error:
                if not skip_diverged:
                    raise
                print(f"[{index + 1}/{len(runs)}] {run.name}, seed {run.seed}: left out: {error}")
                continue
            finally:
                keras.backend.clear_session()  # frees the graphs of the model
        row = measurements(run.config, run.folder)
        balance = ", ".join(
            f"{label} {figure(row[f'train_{name}'])}" for name, label in BALANCE.items()
        )
        time = "already finished" if finished[index] else f"{row['seconds']:.0f} s of training"
        print(
            f"[{index + 1}/{len(runs)}] {run.name}, seed {run.seed}: test perplexity "
            f"{row['perplexity']:.2f}; in training {balance}; {time}",
            flush=True,
        )
        yield run, row


def is_not_retracing_warning(record):
    """Whether a log record is not TensorFlow's warning about retracing. In a sweep every model is
    traced.
    """
    return "triggered tf.function retracing" not in record.getMessage()
