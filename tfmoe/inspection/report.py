"""The report of an inspected run, and its JSON form."""

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
    """The statistics of one mixture.

    Attributes:
        name: name of the layer.
        routed: `RoutedText`.
        use: `ExpertUse`.
        pairs: `CoSelection`.
        on_tokens: `MutualInformation` between expert and token.
        on_labels: `MutualInformation` between expert and label; `None` without labels.
        labels: the output of `label_shares`; `None` without labels.
        consistency: `Consistency` with the run's other weights; `None` without other weights.
        words: `{expert: list of characteristic words}`.
        contexts: `{expert: list of Context}` of the most specialised experts, or of the experts in
            `Options`.
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
    """The report of an inspected run.

    Attributes:
        run: a `RunDirectory`.
        vocabulary: the run's vocabulary.
        weights: the inspected weights, such as `"best"`.
        other_weights: the weights that they are compared with, such as `"last"`; `None` for no
            comparison.
        files: names of the text files.
        sentences: number of sentences.
        label_kind: kind of the labels: `"label"`, `"direction"`, `"file"` or `None`.
        cost: the output of `tfmoe.analysis.operations.describe`.
        result: the contents of `result.json`, measured with the best weights; `{}` for other
            weights.
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
    """Options of an inspection.

    Attributes:
        experts: ids of the experts whose contexts are shown; empty for the most specialised ones.
        shuffles: number of shuffles for the baselines of mutual information.
        seed: seed of the shuffles.
        most_words: number of experts with characteristic words.
    """

    experts: tuple
    shuffles: int
    seed: int
    most_words: int


def layer_report(name, routed, vocabulary, options, labels=None, other=None):
    """Computes the `LayerReport` of one mixture.

    Args:
        name: name of the layer.
        routed: its `RoutedText`, with at least one token that has an expert.
        vocabulary: the run's vocabulary.
        options: `Options`.
        labels: labels of all lines of the text; `None` without labels.
        other: the `RoutedText` of the run's other weights; `None` for no comparison.
    """
    use = use_of_experts(routed)
    with_contexts = options.experts or special_experts(routed, SPECIAL_EXPERTS)
    with_words = dict.fromkeys([*by_load(use)[: options.most_words], *with_contexts])
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
        words={expert: characteristic_words(use, expert, vocabulary) for expert in with_words},
        contexts={
            expert: contexts(routed, expert, vocabulary)
            for expert in with_contexts
            if expert < routed.num_experts
        },
    )


def characteristic_words(use, expert, vocabulary):
    """The characteristic words of an expert, as strings; empty if the expert does not exist."""
    if expert >= len(use.load):
        return []
    to_word = spelling(vocabulary)
    return [to_word(word) for word in use.characteristic_words(expert)]


def inspection_as_json(report):
    """Converts a `Report` to JSON values."""
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
    """Converts a `LayerReport` to JSON values."""
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
            str(expert): [context._asdict() for context in expert_contexts]
            for expert, expert_contexts in layer.contexts.items()
        },
    }


def information_as_json(information):
    """Converts a `MutualInformation` to a dictionary that includes its properties."""
    return {
        **information._asdict(),
        "excess": information.excess,
        "share_of_experts": information.share_of_experts,
        "share_of_labels": information.share_of_labels,
    }
