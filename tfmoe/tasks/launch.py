"""Training on a cluster of processes on this machine."""

import shlex
import sys

from tfmoe.config.loader import load_config
from tfmoe.tasks.processes import cluster, report, wait
from tfmoe.tasks.resume import check_folder
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import check_no_training


def launch_workers(number, config, overrides, run_dir, resume=False):
    """Trains on a cluster of processes on this machine.

    Args:
        number: of processes.
        config: a YAML file, or the name of a shipped config.
        overrides: of `--set`.
        run_dir: the run's folder.
        resume: whether to resume a run that is there.

    Returns:
        Lines that say which worker ended how, if one failed; else `None`.

    Raises:
        ConfigError: for a config that cannot be used.
        BlockingIOError: if another process trains there.
        FileExistsError: if the folder has a run, and `resume` is false.
    """
    settings = [*overrides, "distribute.name=cluster"]
    run = RunDirectory(run_dir)
    check_no_training(run.path)  # the first worker will hold the lock
    check_folder(load_config(config, settings), run, resume)
    command = [sys.executable, "-m", "tfmoe", "train", config, "--run-dir", str(run.path)]
    command += [word for setting in settings for word in ("--set", setting)]
    command += ["--resume"] * resume
    with cluster(command, number, run.logs) as started:
        ended = wait(started)
    failed = any(worker.process.returncode for worker in ended)
    return report(ended) if failed else None


def launch_command(workers, config, settings, run_dir):
    """The command that goes on with the run, or begins it where nothing was saved yet."""
    words = ["tfmoe", "launch", "--workers", workers, config]
    words += [word for setting in settings for word in ("--set", setting)]
    return shlex.join(map(str, [*words, "--run-dir", run_dir, "--resume"]))
