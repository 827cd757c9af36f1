"""What `tfmoe inspect` finds out about a run."""

import pathlib
from typing import Any, NamedTuple

import numpy as np

import data_pipelines
from tfmoe import inspection
from tfmoe.analysis.operations import describe
from tfmoe.inspection import count_lines
from tfmoe.inspection.summary import by_load
from tfmoe.tasks import load_run, task_of
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import load_weights, saved_step

MOST_LABELLED_FILES = 30
SPECIAL_EXPERTS = 6


class LayerReport(NamedTuple):
    """What was found out about one mixture.

    Attributes:
        name: of the layer.
        routed: `RoutedText`.
        use: `ExpertUse`.
        pairs: `CoSelection`.
        on_tokens: `MutualInformation` of expert and token.
        on_labels: the same of expert and label; `None` without labels.
        labels: what `label_shares` gives; `None` without labels.
        consistency: `Consistency` with the other weights of the run; `None` if there are none.
        words: `{expert: its characteristic words}`.
        contexts: `{expert: list of Context}` of the most special experts, or of those asked for.
    """

    name: str
    routed: inspection.RoutedText
    use: inspection.ExpertUse
    pairs: inspection.CoSelection
    on_tokens: inspection.MutualInformation
    on_labels: inspection.MutualInformation | None
    labels: tuple | None
    consistency: inspection.Consistency | None
    words: dict
    contexts: dict


class Report(NamedTuple):
    """What was found out about a run.

    Attributes:
        run: a `RunDirectory`.
        vocabulary: of the run.
        weights, other_weights: which were inspected (`"best"`), and with which they were compared
            (`"last"`, or `None`).
        files: list of the names of the text's files.
        sentences: how many were read.
        label_kind: what the labels are: `"label"`, `"direction"`, `"file"` or `None`.
        cost: what `accounting.describe` gives.
        result: what `result.json` holds; `{}` for other weights than the best, of which it is.
        layers: list of `LayerReport`.
    """

    run: RunDirectory
    vocabulary: Any
    weights: str
    other_weights: str | None
    files: list
    sentences: int
    label_kind: str | None
    cost: dict
    result: dict
    layers: list


def inspect_run(
    path, weights, data, direction, label_files, sentences, experts, shuffles, seed, most_words
):
    """Inspects a run.

    Args:
        path: of its folder.
        weights: `"best"` or `"last"`.
        data, direction: as for `tfmoe evaluate`; without data, the run's test text.
        label_files: paths, or empty.
        sentences: to read at most.
        experts: ids of those to show contexts of; empty for the most special ones.
        shuffles, seed: for the baselines.
        most_words: of how many experts to find characteristic words.

    Returns:
        A `Report`.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if something is missing or does not fit.
    """
    config, vocabulary, model = load_run(path, weights)
    router = inspection.TextRouter(model)
    if not router.mixtures:
        raise ValueError(f"{path} is a model without a mixture of experts: nothing to inspect")
    task, run = task_of(config), RunDirectory(path)
    files = text_files(task, data, direction)
    if not files:
        raise ValueError(f"{path} has no test text (data.test in its config): name one with --data")
    check_experts(router.mixtures, experts)
    labels, kind = labels_of(task, files, label_files)
    batches = task.numbered_batches(vocabulary, files, sentences)
    routings = router(batches)
    other = {}
    other_weights = "last" if weights == "best" else "best"
    steps = [saved_step(run.checkpoints, which) for which in (weights, other_weights)]
    if steps[1] in (None, steps[0]):
        other_weights = None  # there are none, or they are the same
    else:
        load_weights(model, run.checkpoints, other_weights)
        other = router(batches)
    layers = []
    for name, routed in routings.items():
        if not len(routed.places):
            raise ValueError(f"{path}: no token of the text goes to any expert of {name}")
        use = inspection.use_of_experts(routed)
        shown = experts or inspection.special_experts(routed, SPECIAL_EXPERTS)
        most_used = by_load(use)[:most_words]
        layers.append(
            LayerReport(
                name,
                routed,
                use,
                inspection.co_selection(routed),
                inspection.information_on_tokens(routed, shuffles, seed),
                labels and inspection.information_on_labels(routed, labels, shuffles, seed),
                labels and inspection.label_shares(routed, labels),
                inspection.routing_consistency(routed, other[name], seed) if other else None,
                {
                    expert: characteristic_words(use, expert, vocabulary)
                    for expert in dict.fromkeys([*most_used, *shown])
                },
                {
                    expert: inspection.contexts(routed, expert, vocabulary)
                    for expert in shown
                    if expert < routed.num_experts
                },
            )
        )
    return Report(
        run,
        vocabulary,
        weights,
        other_weights,
        names_of(files),
        len(np.unique(layers[0].routed.lines)),
        kind,
        describe(model),
        run.read_result() if weights == "best" else {},
        layers,
    )


def text_files(task, data, direction):
    """The files to inspect on, in the order in which they were named."""
    if direction is not None or task.config.model.name == "translation":
        return task.find_files(data or (), direction)
    if not data:
        return task.splits.test
    return list(dict.fromkeys(file for each in data for file in task.find_files([each])))


def check_experts(mixtures, experts):
    """Raises a ValueError for a number that is of no expert of any mixture."""
    largest = max(layer.num_experts for layer in mixtures.values())
    for expert in experts:
        if not 0 <= expert < largest:
            raise ValueError(f"--expert must be from 0 to {largest - 1}, got {expert}")


def labels_of(task, files, label_files):
    """Labels of all lines of the text, and what they are: `(None, None)` if there are none.

    Without files of labels, it is the direction of a text of several, or its file.
    """
    translates = task.config.model.name == "translation"
    if label_files:
        paths = [path for each in label_files for path in data_pipelines.find_files(each)]
        texts = [path for each in files for path in each.source] if translates else files
        if translates and sum(map(task.count_pairs, files)) != sum(map(count_lines, texts)):
            raise ValueError(
                "--labels: the text has pairs with an empty side, which are left out, so that the "
                "lines of labels are of other pairs; remove these pairs from text and labels"
            )
        return inspection.read_labels(paths, texts), "label"
    if translates:
        names = [f"{each.source_language}-{each.target_language}" for each in files]
        if len(set(names)) < 2:
            return None, None
        counts = [task.count_pairs(each) for each in files]
        return np.repeat(names, counts).tolist(), "direction"
    if not 1 < len(files) <= MOST_LABELLED_FILES:
        return None, None
    names = [pathlib.Path(file).name for file in files]
    if len(set(names)) < len(names):
        names = [str(file) for file in files]
    return np.repeat(names, [count_lines(file) for file in files]).tolist(), "file"


def names_of(files):
    """The names of files, also of `ParallelFiles`."""
    if isinstance(files[0], data_pipelines.ParallelFiles):
        return [path for each in files for path in (*each.source, *each.target)]
    return list(files)


def characteristic_words(use, expert, vocabulary):
    """The characteristic words of an expert, as strings; none of one that does not exist."""
    if expert >= len(use.load):
        return []
    spelled = inspection.spelling(vocabulary)
    return [spelled(word) for word in use.characteristic_words(expert)]


def as_json(report):
    """A `Report` as what `json.dumps` takes."""
    return {
        "run": str(report.run.path),
        "weights": report.weights,
        "compared_with": report.other_weights,
        "files": report.files,
        "sentences": report.sentences,
        "labels": report.label_kind,
        "layers": {layer.name: layer_as_json(layer) for layer in report.layers},
    }


def layer_as_json(layer):
    """A `LayerReport` as what `json.dumps` takes."""
    use, routed = layer.use, layer.routed
    return {
        "experts": routed.num_experts,
        "tokens": len(routed.tokens),
        "experts_per_token": len(routed.places) / len(routed.tokens),
        **use.summary(),
        "load": use.load.tolist(),
        "importance": use.importance.tolist(),
        "information_on_tokens": information_as_json(layer.on_tokens),
        "information_on_labels": layer.on_labels and information_as_json(layer.on_labels),
        "labels": layer.labels
        and {
            "names": layer.labels[0],
            "share_of_text": layer.labels[2].tolist(),
            "shares_of_experts": layer.labels[1].tolist(),
        },
        "consistency": layer.consistency and layer.consistency._asdict(),
        "pairs": [pair._asdict() for pair in layer.pairs.strongest()],
        "characteristic_words": {str(expert): words for expert, words in layer.words.items()},
        "contexts": {
            str(expert): [context._asdict() for context in found]
            for expert, found in layer.contexts.items()
        },
    }


def information_as_json(found):
    """A `MutualInformation` as a dictionary, with what follows from it."""
    return {
        **found._asdict(),
        "excess": found.excess,
        "share_of_experts": found.share_of_experts,
        "share_of_labels": found.share_of_labels,
    }
