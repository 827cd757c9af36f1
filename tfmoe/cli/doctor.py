"""`tfmoe doctor`: diagnoses a run."""

import contextlib
import sys

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json


def doctor(run: arguments.Run, json: arguments.Json = False):
    """Show what is wrong with a run, the likely causes, and which settings to change.

    Compares the figures in the run's history.csv and logs with limits: the load of the experts
    (collapse, dead_experts), the balancing losses (balancing_off, balancing_weak,
    balancing_strong), the gate (saturated_gate, noise_gone, thresholds_off), its capacity
    (capacity_too_small, capacity_too_large), the work per expert (small_expert_batch,
    small_experts), and the loss (divergence, overfitting). For a run that is still training or was
    stopped, the finished epochs are used. Neither text nor weights are read: it takes seconds.

    The exit status is 0 with and without findings. Scripts should read "findings" of --json.

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
