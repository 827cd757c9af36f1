"""`tfmoe launch`: a cluster on this machine, for trying things."""

import pathlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.endings import resumable
from tfmoe.config.shipped import find_config


def launch(
    config: arguments.Config,
    workers: Annotated[int, typer.Option(min=1, max=256, help="How many processes.")] = 2,
    set_: arguments.Set = None,
    run_dir: arguments.RunDir = None,
    resume: arguments.Resume = False,
):
    """Train on a cluster of processes on this machine, to try what a real cluster would do.

    Starts `tfmoe train CONFIG --set distribute.name=cluster` once for each worker, with a TF_CONFIG
    of free ports on 127.0.0.1. The workers share the cores of this machine and use no GPU, so this
    is no faster than `tfmoe train`; for the GPUs of this machine, train with
    distribute.name=local.

    Worker 0 writes here, the others into logs/worker-1.log, … of the run's folder. If one fails or
    is killed, the others end within a minute, and --resume goes on, with any number of workers. So
    does `tfmoe train … --resume`, with none.

    \b
    Examples:
      tfmoe launch demo/language_model
      tfmoe launch --workers 3 demo/language_model --set training.seed=1 --run-dir runs/three
      tfmoe launch --workers 2 demo/language_model --run-dir runs/three --resume
    """
    run_dir = run_dir or pathlib.Path("runs") / find_config(config).stem
    again = tasks.launch_command(workers, config, set_ or (), run_dir)
    with resumable(lambda: f"stopped all workers; to go on: {again}"):
        failure = tasks.launch_workers(workers, config, set_ or (), run_dir, resume)
    if failure:
        print(f"\n{failure}\nTo go on: {again}", file=sys.stderr)
        raise typer.Exit(1)
