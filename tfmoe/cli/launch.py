"""`tfmoe launch`: trains on a cluster of processes on this machine, for testing."""

import pathlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.exit_status import resumable
from tfmoe.config.shipped import find_config


def launch(
    config: arguments.Config,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Number of processes.")] = 2,
    set_: arguments.Set = None,
    run_dir: arguments.RunDir = None,
    resume: arguments.Resume = False,
):
    """Train on a cluster of processes on this machine, to test training on a cluster.

    Starts `tfmoe train CONFIG --set distribute.name=cluster` once per worker, with a TF_CONFIG of
    free ports on 127.0.0.1. The workers share the cores of this machine and use no GPU, so this is
    not faster than `tfmoe train`. To use the GPUs of this machine, train with
    distribute.name=local.

    Worker 0 writes to this terminal, the others to logs/worker-1.log, … in the run's folder. If a
    worker fails or is killed, the others end within a minute. --resume then resumes the run, with
    any number of workers; `tfmoe train … --resume` resumes it on one device.

    \b
    Examples:
      tfmoe launch demo/language_model
      tfmoe launch --workers 3 demo/language_model --set training.seed=1 --run-dir runs/three
      tfmoe launch --workers 2 demo/language_model --run-dir runs/three --resume
    """
    run_dir = run_dir or pathlib.Path("runs") / find_config(config).stem
    command = tasks.launch_command(workers, config, set_ or (), run_dir)
    with resumable(lambda: f"stopped all workers; resume with: {command}"):
        failure = tasks.launch_workers(workers, config, set_ or (), run_dir, resume)
    if failure:
        print(f"\n{failure}\nResume with: {command}", file=sys.stderr)
        raise typer.Exit(1)
