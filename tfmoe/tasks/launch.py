"""Trains on a cluster of processes on this machine."""

import os
import shlex
import sys
from collections.abc import Sequence

from tfmoe.config.loader import load_config
from tfmoe.tasks.processes import cluster, report, wait
from tfmoe.tasks.resume import check_folder
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import check_no_training


def launch_workers(
    number: int,
    config: str,
    overrides: Sequence[str],
    run_dir: str | os.PathLike,
    resume: bool = False,
) -> str | None:
    """Trains on a cluster of processes on this machine.

    Args:
        number: number of processes.
        config: a YAML file, or the name of a shipped config.
        overrides: values of `--set`.
        run_dir: the run's folder.
        resume: whether to resume the run in the folder.

    Returns:
        Text that says how each worker ended, if one failed; `None` otherwise.

    Raises:
        ConfigError: for an invalid config.
        BlockingIOError: if another process trains in the folder.
        FileExistsError: if the folder has a run and `resume` is false.
    """
    settings = [*overrides, "distribute.name=cluster"]
    run = RunDirectory(run_dir)
    check_no_training(run.path)  # the first worker acquires the lock
    check_folder(load_config(config, settings), run, resume)
    command = [sys.executable, "-m", "tfmoe", "train", config, "--run-dir", str(run.path)]
    command += [argument for setting in settings for argument in ("--set", setting)]
    command += ["--resume"] * resume
    with cluster(command, number, run.logs) as started:
        outcomes = wait(started)
    failed = any(worker.process.returncode for worker in outcomes)
    return report(outcomes) if failed else None


def launch_command(
    workers: int, config: str, settings: Sequence[str], run_dir: str | os.PathLike
) -> str:
    """The command that resumes the run, or starts it if nothing was saved yet."""
    arguments = ["tfmoe", "launch", "--workers", workers, config]
    arguments += [argument for setting in settings for argument in ("--set", setting)]
    return shlex.join(map(str, [*arguments, "--run-dir", run_dir, "--resume"]))
