"""`tfmoe doctor`: what goes wrong in a run, why, and what to change."""

import contextlib
import sys

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json


def doctor(run: arguments.Run, json: arguments.Json = False):
    """Name what is wrong in a run, the likely cause, and the setting to change.

    Compares the figures in history.csv and the logs of the run with limits: how evenly experts are
    used (collapse, dead_experts), the balancing losses (balancing_off, balancing_weak,
    balancing_strong), the gate (saturated_gate, noise_gone, thresholds_off), its capacity
    (capacity_too_small, capacity_too_large), the tokens per expert (small_expert_batch,
    small_experts), and the loss (divergence, overfitting). A run that is still training, or
    was stopped, is examined up to its last epoch. The command reads no text and no weights, so it
    takes seconds.

    The exit status is 0 with and without findings: in a script, use "findings" of --json.

    \b
    Examples:
      tfmoe doctor runs/demo/moe
      tfmoe doctor runs/mine --json

    \b
    With --json: {"run", "state" (finished, training, stopped), "epochs", "mixtures", "findings":
    [{"kind", "severity" (problem, warning, note), "where", "figure", "value", "least", "most"
    (limits), "cause", "changes": [{"key", "value", "now"}]}], "healthy" (the other figures),
    "not_checked"}.
    """
    with contextlib.redirect_stdout(sys.stderr):
        examination = tasks.examine_run(run)
    if json:
        print_json(tasks.examination_as_json(examination))
    else:
        print(tasks.examination_summary(examination))
