"""Diagnoses a run from the files in its folder: problems, causes and changes that help."""

import contextlib
import math
import shlex
import textwrap
from typing import NamedTuple

import tensorflow as tf

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.printable import printable
from tfmoe.analysis.traffic import traffic_of
from tfmoe.config.builders import build_model
from tfmoe.config.loader import load_config
from tfmoe.config.model_schema import block_lists
from tfmoe.inspection.doctor import (
    Check,
    Setting,
    Settings,
    check_expert_size,
    check_training,
    findings_of,
    mixture_of,
    short,
)
from tfmoe.inspection.summary_files import read_scalars
from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_vocabulary
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import check_no_training

WIDTH = 88  # of the text, in characters


class Examination(NamedTuple):
    """The diagnosis of a run.

    Attributes:
        run: the `RunDirectory`.
        state: `"finished"`, `"training"` or `"stopped"`.
        epochs: number of finished epochs.
        all_epochs: number of epochs of the whole training.
        mixtures: names of the model's mixtures.
        checks: list of `tfmoe.inspection.doctor.Check`.
        not_checked: list of strings, what could not be checked and why.
    """

    run: RunDirectory
    state: str
    epochs: int
    all_epochs: int
    mixtures: list[str]
    checks: list[Check]
    not_checked: list[str]

    @property
    def findings(self):
        """The `Finding`s, the worst first."""
        return findings_of(self.checks)


def examine_run(path):
    """Diagnoses a run, finished or not, without reading weights or text.

    Args:
        path: the folder of the run.

    Returns:
        An `Examination`.

    Raises:
        FileNotFoundError: if the folder is not a run, or no epoch is finished.
        ValueError: if a file of the run cannot be read.
    """
    with contextlib.suppress(RuntimeError):  # raised if TensorFlow has initialized the devices
        tf.config.set_visible_devices([], "GPU")  # nothing is computed
    run = RunDirectory(path)
    run.check()
    config = load_config(run.config)
    state, rows = state_of(run), run.read_history()
    if not rows:
        raise FileNotFoundError(no_epoch(run, state))
    num_words = len(load_vocabulary(run, task_of(config)))
    model = build_model(config, num_words)
    samples = read_scalars(run.logs / "experts")
    sample = samples[max(samples)] if samples else {}
    layers = list(mixtures_with_keys(config, model, rows[-1]))
    mixtures = [mixture_of(*layer) for layer in layers]
    checks = check_training(mixtures, rows, sample, math.log(num_words), settings_of(config))
    if config.distribute.name != "none":
        for mixture, (_, layer, *_) in zip(mixtures, layers, strict=True):
            hidden_units = layer.get_config().get("hidden_units")
            if hidden_units is not None:
                ratio = traffic_of(layer, model.d_model, 1)["compute_to_communication"]
                checks += check_expert_size(mixture, ratio, hidden_units)
    names = [mixture.name for mixture in mixtures]
    missing = [text for mixture in mixtures for text in not_checked(mixture, rows[-1], sample)]
    return Examination(run, state, len(rows), config.training.epochs, names, checks, missing)


def not_checked(mixture, row, sample):
    """Yields what cannot be checked for a mixture, and why."""
    name = mixture.name
    if f"{name}_cv_load" not in row:
        yield f"{name}: use of experts (history.csv has no {name}_cv_load; metrics must be all)"
    if mixture.selected > 1 and f"{name}/gate_entropy" not in sample:
        yield (
            f"{name}: gate values (logs/experts has no {name}/gate_entropy, which is measured on "
            "validation text, on one device)"
        )


def state_of(run):
    """Whether a run is `"finished"`, `"training"` now, or was `"stopped"`."""
    try:
        check_no_training(run.path)
    except BlockingIOError:
        return "training"
    return "finished" if run.result.is_file() else "stopped"


def no_epoch(run, state):
    """The message for a run without history."""
    message = f"{run.path} has no finished epoch (there is no {run.history.name})"
    if state == "training":
        return f"{message}: it is still training; repeat the command after the first epoch"
    return (
        f"{message}: training stopped in the first epoch. If the loss was not finite, "
        "lower training.optimizer.learning_rate, or set training.optimizer.global_clip_norm"
    )


def settings_of(config):
    """The `Settings` in a config."""
    training = config.training
    return Settings(
        learning_rate=Setting("training.optimizer.learning_rate", training.optimizer.learning_rate),
        epochs=Setting("training.epochs", training.epochs),
        dropout=Setting("model.dropout", config.model.dropout),
        batch=Setting("data.batch_tokens", config.data.batch_tokens),
    )


def mixtures_with_keys(config, model, row):
    """Yields the mixtures of a run's model: `(name, layer, prefix of its config keys, tokens of a
    training batch)`.

    Args:
        config: the run's `Config`.
        model: the model, built or not.
        row: the last epoch of its history.
    """
    steps = config.training.steps_per_epoch
    # Without steps_per_epoch the number of words per batch is unknown: padding is included.
    words = row["words"] / steps if steps else config.data.batch_tokens
    keys = [
        f"model.{key}[{index}]."
        for key in block_lists(type(config.model))
        for index in range(len(getattr(config.model, key)))
    ]
    names = {id(layer): name for name, layer in mixtures_of(model).items()}
    for block, key, tokens in zip(model.blocks, keys, model.positions_by_block(words), strict=True):
        for layer in mixtures_of(block).values():
            yield names[id(layer)], layer, key, tokens


def examination_as_json(examination):
    """An `Examination` as a dictionary of plain values."""
    return {
        "run": str(examination.run.path),
        "state": examination.state,
        "epochs": examination.epochs,
        "mixtures": examination.mixtures,
        "findings": [finding.as_json() for finding in examination.findings],
        "healthy": [
            {"figure": figure.name, "value": figure.value, "least": figure.least,
             "most": figure.most}
            for figure, finding in examination.checks if finding is None
        ],
        "not_checked": examination.not_checked,
    }  # fmt: skip


def examination_summary(examination):
    """An `Examination` as text for a terminal."""
    findings, run = examination.findings, printable(str(examination.run.path))
    parts = [
        f"{run}: {examination.state}, {examination.epochs} of {examination.all_epochs} epochs, "
        + (", ".join(examination.mixtures) or "no mixture of experts")
    ]
    parts += map(describe_finding, findings)
    healthy = [
        [figure.name, short(figure.value), figure.limits()]
        for figure, finding in examination.checks
        if finding is None
    ]
    if healthy:
        title = "Healthy:" if findings else "No findings. These figures are healthy:"
        table = aligned([["figure", "measured", "limits"], *healthy], "<><")
        parts.append(f"{title}\n{table}")
    if examination.not_checked:
        parts.append("\n".join(["Not checked:", *examination.not_checked]))
    command = retrain_command(examination)
    if command:
        parts.append(f"To try the changes:\n{command}")
    return "\n\n".join(parts)


def describe_finding(finding):
    """A `Finding` as several lines of text."""
    lines = [
        f"{finding.severity.upper()}  {finding.kind}  {finding.where}",
        f"  {finding.figure}",
        textwrap.fill(finding.cause, WIDTH, initial_indent="  ", subsequent_indent="  "),
        *(f"  change: {change}" for change in finding.changes),
    ]
    return "\n".join(lines)


def retrain_command(examination):
    """The command that trains with the changes of all findings; `None` if there are no changes."""
    changes = {}
    for finding in examination.findings:
        for change in finding.changes:
            changes.setdefault(change.key, change)
    if not changes:
        return None
    run = examination.run
    arguments = ["tfmoe", "train", str(run.config), "--run-dir", f"{run.path}-changed"]
    for change in changes.values():
        arguments += ["--set", change.assignment()]
    return printable(shlex.join(arguments))
