"""Makes a run of a trained one: the model is converted, text, vocabulary and progress are kept."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import keras

from tfmoe.analysis.operations import ops_per_timestep
from tfmoe.config.builders import build_model, build_optimizer
from tfmoe.config.loader import dump_config, load_config
from tfmoe.config.model_schema import block_lists
from tfmoe.config.schema import Config
from tfmoe.data_pipelines.atomic_write import atomic_folder
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.tasks.resume_hint import resume_command
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import check_no_training
from tfmoe.training.state import TrainingState, load_weights, save_weights, saved_step
from tfmoe.training.transfer import Change, transfer_state, transfer_weights


def trained_run(path: str | os.PathLike, out: str | os.PathLike) -> tuple[RunDirectory, Config]:
    """Checks that a run can be converted into a new folder.

    Args:
        path: the run's folder.
        out: the folder of the new run.

    Returns:
        The `RunDirectory` and its config.

    Raises:
        FileNotFoundError: if the folder has no run, or no saved state yet.
        FileExistsError: if the new folder exists.
        BlockingIOError: if a process trains in the run's folder.
        ValueError: if the new folder is inside of the run's.
    """
    run = RunDirectory(path)
    run.check()
    if os.path.lexists(out):
        raise FileExistsError(f"{out} already exists: choose a new folder for the new run")
    if run.path.resolve() in pathlib.Path(out).resolve().parents:
        raise ValueError(f"{out} is inside of {run.path}: choose a folder outside of the run")
    check_no_training(run.path)
    if saved_step(run.checkpoints, "last") is None:
        raise FileNotFoundError(
            f"{run.checkpoints} has no saved state yet: train the run for an epoch first"
        )
    return run, load_config(run.config)


def block_places(config: Config) -> list[tuple[str, int]]:
    """The `(list, index)` of every block of a model, in order: `("blocks", 0)`, …"""
    lists = block_lists(type(config.model))
    return [(key, index) for key in lists for index in range(len(getattr(config.model, key)))]


def compiled_model(config: Config, vocabulary_size: int) -> keras.Model:
    """Builds and compiles the model of a config, with initial weights from `training.seed`."""
    keras.utils.set_random_seed(config.training.seed)
    model = build_model(config, vocabulary_size)
    model.compile(build_optimizer(config), jit_compile=config.training.jit_compile)
    model.build((None, None))
    return model


def convert_checkpoints(
    run: RunDirectory,
    new_run: RunDirectory,
    old: keras.Model,
    new: keras.Model,
    changes: Sequence[Change],
    restart: bool = False,
    keeps_best: bool = True,
) -> TrainingState:
    """Converts the best weights and the last state of a run.

    Args:
        run: the run.
        new_run: the run to write.
        old: the run's model, built and compiled.
        new: the new model, built and compiled.
        changes: the layers that differ.
        restart: whether training starts at step 0, with a new optimizer, from the last weights.
        keeps_best: whether the lowest validation perplexity so far is that of the new model too. If
            not, the weights after the next epoch are the best ones.

    Returns:
        The saved state of the new model.
    """
    best_step = saved_step(run.checkpoints, "best")
    old_state = TrainingState(old, run.checkpoints)
    new_state = TrainingState(new, new_run.checkpoints)
    if best_step is not None and not restart:
        load_weights(old, run.checkpoints, "best")
        transfer_weights(old, new, changes)
        save_weights(new, new_run.checkpoints, best_step)
    old_state.restore()
    if restart:
        transfer_weights(old, new, changes)
        save_weights(new, new_run.checkpoints, 0)
    else:
        transfer_state(old_state, new_state, changes)
        if not keeps_best:
            new_state.best.assign(float("inf"))
    new_state.save()
    return new_state


@contextlib.contextmanager
def new_folder(out: str | os.PathLike) -> Iterator[RunDirectory]:
    """Makes the folder of a new run, which appears under its name when the block ends.

    Args:
        out: the folder, which must not exist.

    Raises:
        FileExistsError: if the folder exists.
        OSError: if a file cannot be written. Nothing is left then.

    Yields:
        The `RunDirectory` of a folder with a temporary name.
    """
    with atomic_folder(out) as folder, full_disk_named(out):
        yield RunDirectory(folder)


def copy_files(run: RunDirectory, new_run: RunDirectory, made: dict, history: bool = True) -> None:
    """Copies the vocabulary, `run.json` and the history of a run.

    Args:
        run: the run.
        new_run: the run to write.
        made: how the new run was made, for the key `made_from` of its `run.json`.
        history: whether to copy the history.
    """
    files = [run.vocabulary, run.subwords, *([run.history] if history else [])]
    for file in files:
        if file.exists():
            shutil.copyfile(file, new_run.path / file.name)
    new_run.write_json(new_run.facts, {**run.read_facts(), "made_from": made})


def write_config(new_run: RunDirectory, config: Config) -> None:
    """Writes the config of a new run."""
    new_run.config.write_text(dump_config(config), encoding="utf-8")


def next_command(out: str | os.PathLike, config: Config, state: TrainingState) -> str:
    """The command that trains a new run further; with twice the epochs if all are finished.

    Args:
        out: the folder of the new run.
        config: its config.
        state: its state.
    """
    command, epochs = resume_command(out), config.training.epochs
    if int(state.epoch) < epochs:
        return command
    return f"{command} --set training.epochs={2 * epochs}"


def costs(old: keras.Model, new: keras.Model) -> dict:
    """`ops_per_timestep` and `parameters` of two built models, each `{"before", "after"}`."""
    return {
        "ops_per_timestep": {"before": ops_per_timestep(old), "after": ops_per_timestep(new)},
        "parameters": {"before": old.count_params(), "after": new.count_params()},
    }
