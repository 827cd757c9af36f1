"""`tfmoe doctor`: the problems of a run, their causes and the settings to change."""

import contextlib
import sys

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json


def doctor(run: arguments.Run, json: arguments.Json = False):
    """List the problems of a run, their causes and the settings to change.

    Compares the figures in the run's history.csv and logs with limits. They show how evenly the
    experts are used (collapse, dead_experts), and check the balancing losses (balancing_off,
    balancing_weak, balancing_strong), the gate (saturated_gate, noise_gone, thresholds_off), the
    capacity (capacity_too_small, capacity_too_large), the tokens per expert (small_expert_batch),
    the size of the experts on several devices (small_experts), and the loss (divergence,
    overfitting). Of a run that is still training, or was stopped, the finished epochs are examined.
    Text and weights are not read, so this takes seconds.

    The exit status is 0 whether or not there are findings; scripts can read "findings" of --json.

    \b
    Examples:
      tfmoe doctor runs/demo/moe
      tfmoe doctor runs/mine --json

    \b
    With --json: {"run", "state" (finished, training, stopped), "epochs", "mixtures", "findings":
    [{"kind", "severity" (problem, warning, note), "where", "figure", "value", "least", "most"
    (limits, or null), "cause", "changes": [{"key", "value", "now"}]}], "healthy" (the other
    figures), "not_checked"}.
    """
    with contextlib.redirect_stdout(sys.stderr):
        examination = tasks.examine_run(run)
    if json:
        print_json(tasks.examination_as_json(examination))
    else:
        print(tasks.examination_summary(examination))
