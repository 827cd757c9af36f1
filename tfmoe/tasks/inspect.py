"""`tfmoe inspect`: shows which tokens the experts of a trained model specialise in."""

import os
from collections.abc import Sequence

import numpy as np

from tfmoe import data_pipelines
from tfmoe.analysis.operations import describe
from tfmoe.data_pipelines.atomic_write import check_writable
from tfmoe.extras import require
from tfmoe.inspection.page import write as write_page
from tfmoe.inspection.report import Options, Report, layer_report
from tfmoe.inspection.routing import TextRouter
from tfmoe.inspection.routing_table import write_routing_table
from tfmoe.inspection.summary import MOST_ROWS
from tfmoe.inspection.text import read_labels
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import load_weights, saved_step


def inspect_run(
    path: str | os.PathLike,
    weights: str = "best",
    data: Sequence[str] | None = None,
    direction: str | None = None,
    *,
    label_files: Sequence[str] = (),
    sentences: int | None = None,
    experts: Sequence[int] = (),
    shuffles: int = 20,
    seed: int = 0,
    csv: str | os.PathLike | None = None,
    html: str | os.PathLike | None = None,
) -> Report:
    """Inspects the routing of a run's model.

    Args:
        path: the run's folder.
        weights: `"best"` or `"last"`.
        data: paths, globs or prefixes of files; `None` for the run's test text.
        direction: a direction of a multilingual model, `"en-fr"`, or `None`.
        label_files: files with a label per line of the text, or empty.
        sentences: maximum number of sentences; `None` for all.
        experts: indices of the experts whose contexts are shown; empty for the most specialised.
        shuffles: number of shuffles for the baselines of mutual information.
        seed: seed of the shuffles.
        csv: file for the routing table, or `None`.
        html: file for the report as a page, or `None`.

    Returns:
        A `tfmoe.inspection.report.Report`.

    Raises:
        FileNotFoundError: if the folder has no run.
        MissingExtra: if `html` is given and matplotlib is not installed.
        ValueError: if the model has no mixture, the text is missing, or arguments are invalid.
        OSError: if a file cannot be written. This is checked before anything is read.
    """
    if html:
        require("matplotlib")
    outputs = {write_routing: csv, write_page: html}
    for file in filter(None, outputs.values()):
        check_writable(file)
    options = Options(tuple(experts), shuffles, seed, MOST_ROWS)
    report = report_on(path, weights, data, direction, label_files, sentences, options)
    for write, file in outputs.items():
        if file is not None:
            write(report, file)
    return report


def write_routing(report, path):
    """Writes the routing table of a `Report` as CSV."""
    routed = {layer.name: layer.routed for layer in report.layers}
    write_routing_table(routed, report.vocabulary, path)


def report_on(path, weights, data, direction, label_files, sentences, options):
    """The `Report` of a run. Arguments as for `inspect_run`, and `Options`."""
    config, vocabulary, model = load_run(path, weights)
    router = TextRouter(model)
    if not router.mixtures:
        raise ValueError(f"{path}: the model has no mixture of experts, nothing to inspect")
    task, run = task_of(config), RunDirectory(path)
    files = task.files_in_order(data or (), direction)
    if not files:
        raise ValueError(f"{path} has no test text (data.test in its config): give one with --data")
    check_experts(router.mixtures, options.experts)
    labels, kind = labels_of(task, files, label_files)
    batches = task.numbered_batches(vocabulary, files, sentences)
    routings = router(batches)
    for name, routed in routings.items():
        if not len(routed.places):
            raise ValueError(f"{path}: no token of the text is routed to an expert of {name}")
    other_weights = other_weights_of(run, weights)
    other = {}
    if other_weights:
        load_weights(model, run.checkpoints, other_weights)
        other = router(batches)
    layers = [
        layer_report(name, routed, vocabulary, options, labels, other.get(name))
        for name, routed in routings.items()
    ]
    return Report(
        run=run,
        vocabulary=vocabulary,
        weights=weights,
        other_weights=other_weights,
        files=task.names_of(files),
        sentences=len(np.unique(layers[0].routed.lines)),
        label_kind=kind,
        cost=describe(model),
        result=run.read_result() if weights == "best" else {},
        layers=layers,
    )


def other_weights_of(run, weights):
    """The other weights of a run, to compare with: `"last"` or `"best"`; `None` if there are none,
    or if they are of the same step.
    """
    other = "last" if weights == "best" else "best"
    step, other_step = (saved_step(run.checkpoints, which) for which in (weights, other))
    return None if other_step in (None, step) else other


def check_experts(mixtures, experts):
    """Raises a ValueError for an index that no mixture has an expert for."""
    largest = max(layer.num_experts for layer in mixtures.values())
    for expert in experts:
        if not 0 <= expert < largest:
            raise ValueError(f"--expert must be from 0 to {largest - 1}, got {expert}")


def labels_of(task, files, label_files):
    """The labels of all lines of the text, and the kind of label: `(None, None)` without labels.

    Args:
        task: the task of the run's config.
        files: the files of the text, as the task finds them.
        label_files: paths or globs; empty to label by file or direction.
    """
    if not label_files:
        return task.default_labels(files)
    paths = [path for pattern in label_files for path in data_pipelines.find_files(pattern)]
    return read_labels(paths, task.numbered_files(files)), "label"
