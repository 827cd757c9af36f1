"""`tfmoe inspect`: what the experts of a trained model do."""

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
    path,
    weights="best",
    data=None,
    direction=None,
    *,
    label_files=(),
    sentences=None,
    experts=(),
    shuffles=20,
    seed=0,
    csv=None,
    html=None,
):
    """Inspects a run.

    Args:
        path: of its folder.
        weights: `"best"` or `"last"`.
        data, direction: as for `tfmoe evaluate`; without data, the run's test text.
        label_files: paths, or empty.
        sentences: to read at most; `None` for all.
        experts: ids of those to show contexts of; empty for the most special ones.
        shuffles, seed: for the baselines of information.
        csv: file for the routing table, or `None`.
        html: file for everything as a page, or `None`.

    Returns:
        A `tfmoe.inspection.report.Report`.

    Raises:
        FileNotFoundError: if the folder is no run.
        MissingExtra: if a page is asked for, and matplotlib is not installed.
        ValueError: if something is missing or does not fit.
        OSError: if a file cannot be written; before anything is read.
    """
    if html:
        require("matplotlib")
    written = {write_routing: csv, write_page: html}
    for file in filter(None, written.values()):
        check_writable(file)
    options = Options(tuple(experts), shuffles, seed, MOST_ROWS)
    report = report_on(path, weights, data, direction, label_files, sentences, options)
    for write, file in written.items():
        if file is not None:
            write(report, file)
    return report


def write_routing(report, path):
    """Writes the routing of a `Report` as CSV."""
    routed = {layer.name: layer.routed for layer in report.layers}
    write_routing_table(routed, report.vocabulary, path)


def report_on(path, weights, data, direction, label_files, sentences, options):
    """The `Report` of a run; arguments as for `inspect_run`, and `Options`."""
    config, vocabulary, model = load_run(path, weights)
    router = TextRouter(model)
    if not router.mixtures:
        raise ValueError(f"{path} is a model without a mixture of experts: nothing to inspect")
    task, run = task_of(config), RunDirectory(path)
    files = task.files_in_order(data or (), direction)
    if not files:
        raise ValueError(f"{path} has no test text (data.test in its config): name one with --data")
    check_experts(router.mixtures, options.experts)
    labels, kind = labels_of(task, files, label_files)
    batches = task.numbered_batches(vocabulary, files, sentences)
    routings = router(batches)
    for name, routed in routings.items():
        if not len(routed.places):
            raise ValueError(f"{path}: no token of the text goes to any expert of {name}")
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
    """The run's weights to compare with, `"last"` or `"best"`; `None` if there are none, or they
    are of the same step.
    """
    other = "last" if weights == "best" else "best"
    step, other_step = (saved_step(run.checkpoints, which) for which in (weights, other))
    return None if other_step in (None, step) else other


def check_experts(mixtures, experts):
    """Raises a ValueError for a number that is of no expert of any mixture."""
    largest = max(layer.num_experts for layer in mixtures.values())
    for expert in experts:
        if not 0 <= expert < largest:
            raise ValueError(f"--expert must be from 0 to {largest - 1}, got {expert}")


def labels_of(task, files, label_files):
    """Labels of all lines of the text, and what they are: `(None, None)` if there are none.

    Args:
        task: the task of the run's config.
        files: of the text, as the task finds them.
        label_files: paths or globs; empty for the labels that the text has by itself.
    """
    if not label_files:
        return task.own_labels(files)
    paths = [path for each in label_files for path in data_pipelines.find_files(each)]
    return read_labels(paths, task.numbered_files(files)), "label"
