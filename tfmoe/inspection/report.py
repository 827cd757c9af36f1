"""What an inspection of a run holds, and as JSON."""

from typing import Any, NamedTuple

from tfmoe.inspection.consistency import Consistency, routing_consistency
from tfmoe.inspection.contexts import contexts, spelling
from tfmoe.inspection.information import (
    MutualInformation,
    information_on_labels,
    information_on_tokens,
    label_shares,
    special_experts,
)
from tfmoe.inspection.pairs import CoSelection, co_selection
from tfmoe.inspection.routing import RoutedText
from tfmoe.inspection.summary import by_load
from tfmoe.inspection.use import ExpertUse, use_of_experts
from tfmoe.training.run_directory import RunDirectory

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
    routed: RoutedText
    use: ExpertUse
    pairs: CoSelection
    on_tokens: MutualInformation
    on_labels: MutualInformation | None
    labels: tuple | None
    consistency: Consistency | None
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


class Options(NamedTuple):
    """What to look for in a mixture.

    Attributes:
        experts: ids of the experts to show contexts of; empty for the most special ones.
        shuffles, seed: for the baselines of information.
        most_words: of how many experts to find characteristic words.
    """

    experts: tuple
    shuffles: int
    seed: int
    most_words: int


def layer_report(name, routed, vocabulary, options, labels=None, other=None):
    """The `LayerReport` of one mixture.

    Args:
        name: of the layer.
        routed: its `RoutedText`, with at least one token that goes to an expert.
        vocabulary: of the run.
        options: `Options`.
        labels: of all lines of the text; `None` without labels.
        other: the `RoutedText` by the run's other weights; `None` without.
    """
    use = use_of_experts(routed)
    shown = options.experts or special_experts(routed, SPECIAL_EXPERTS)
    named = dict.fromkeys([*by_load(use)[: options.most_words], *shown])
    baseline = options.shuffles, options.seed
    return LayerReport(
        name=name,
        routed=routed,
        use=use,
        pairs=co_selection(routed),
        on_tokens=information_on_tokens(routed, *baseline),
        on_labels=labels and information_on_labels(routed, labels, *baseline),
        labels=labels and label_shares(routed, labels),
        consistency=other and routing_consistency(routed, other, options.seed),
        words={expert: characteristic_words(use, expert, vocabulary) for expert in named},
        contexts={
            expert: contexts(routed, expert, vocabulary)
            for expert in shown
            if expert < routed.num_experts
        },
    )


def characteristic_words(use, expert, vocabulary):
    """The characteristic words of an expert, as strings; none of one that does not exist."""
    if expert >= len(use.load):
        return []
    spelled = spelling(vocabulary)
    return [spelled(word) for word in use.characteristic_words(expert)]


def inspection_as_json(report):
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
