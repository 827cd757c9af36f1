"""The report of an inspection as text and tables for a terminal; `page` shows the same rows."""

import math

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.printable import printable
from tfmoe.inspection.use import over_mean

HEADING = ["expert", "load/mean", "importance/mean", "words that go there more than elsewhere"]
MOST_ROWS = 32


def inspection_summary(report, show_contexts=False):
    """Formats a `Report` for a terminal.

    Args:
        report: the report.
        show_contexts: whether to show contexts of experts.
    """
    parts = []
    for layer in report.layers:
        measures = aligned(measure_rows(layer, report), "<<")
        parts += [headline(layer, report), measures, expert_table(layer)]
        if show_contexts:
            where = f"Where {printable(layer.name)} weighs expert"
            parts += [
                f"{where} {expert} highest:\n{context_table(contexts)}"
                for expert, contexts in layer.contexts.items()
            ]
    return "\n\n".join(parts)


def headline(layer, report):
    """A line with a layer's expert count and the size of the text."""
    routed = layer.routed
    return (
        f"{printable(layer.name)}: {routed.num_experts} experts, "
        f"{len(routed.places) / len(routed.tokens):.2f} for a token, on {len(routed.tokens):,} "
        f"tokens of {report.sentences:,} sentences ({report.weights} weights)"
    )


def measure_rows(layer, report):
    """Rows of measures and their values, for the terminal and for the page."""
    use = layer.use.summary()
    max_entropy = math.log2(layer.routed.num_experts)
    rows = [
        [
            "load",
            f"CV {use['cv_load']:.2f}, largest {use['max_over_mean_load']:.2f} of the mean, "
            f"{use['unused_experts']} unused, entropy {use['load_entropy']:.2f} of "
            f"{max_entropy:.2f} bits",
        ],
        [
            "importance",
            f"CV {use['cv_importance']:.2f}, largest {use['max_over_mean_importance']:.2f} of the "
            "mean",
        ],
        ["gate values", f"entropy {use['gate_entropy']:.2f} bits for a token"],
        ["expert and token", information(layer.on_tokens, "tokens'")],
    ]
    if layer.on_labels:
        kind = report.label_kind
        rows.append([f"expert and {kind}", information(layer.on_labels, f"{kind}s'")])
    strongest = layer.pairs.strongest(4)
    if strongest:
        rows.append(
            [
                "chosen together",
                ", ".join(
                    f"{pair.first} + {pair.second} ({pair.count / pair.expected:.1f} × chance)"
                    for pair in strongest
                ),
            ]
        )
    if layer.consistency:
        consistency = layer.consistency
        rows.append(
            [
                f"{report.weights} and {report.other_weights}",
                f"{consistency.same_experts:.1%} of tokens have the same experts, Jaccard "
                f"{consistency.jaccard:.3f} (chance {consistency.chance:.3f}), "
                f"{consistency.kept_mass:.1%} of the gate values stay",
            ]
        )
    return rows


def information(mutual_information, labels):
    """Formats a `MutualInformation`.

    Args:
        mutual_information: the values.
        labels: possessive of the second variable, such as `"tokens'"`.
    """
    values = mutual_information
    return (
        f"{values.bits:.3f} bits (shuffled {values.baseline_mean:.3f} ± "
        f"{values.baseline_deviation:.3f}); {values.share_of_experts:.1%} of the experts' entropy, "
        f"{values.share_of_labels:.1%} of the {labels}"
    )


def expert_table(layer):
    """A table of the experts of a layer: load, importance, characteristic words."""
    rows, num_omitted = top_expert_rows(layer)
    more = f"\nand {num_omitted:,} experts with less load" if num_omitted else ""
    return aligned([HEADING, *rows], ">>><") + more


def top_expert_rows(layer):
    """Rows for the experts with the largest loads, and the number of omitted experts."""
    order = by_load(layer.use)
    words = {expert: layer.words[expert] for expert in order[:MOST_ROWS]}
    return expert_rows(layer.use, words), len(order) - len(words)


def context_table(contexts):
    """A table of `Context`s with aligned tokens."""
    if not contexts:
        return "  it received no token"
    rows = [
        [
            f"{context.gate:.3f}",
            f"line {context.sentence}",
            context.before,
            f"[{visible(context.token)}]",
            context.after,
        ]
        for context in contexts
    ]
    return aligned(rows, ">>><<")


def visible(token):
    """A token's text, or a visible symbol for a token of white space."""
    return token if token.strip() else "␣"


def expert_rows(use, words):
    """Rows of strings: expert, load and importance over their means, words.

    Args:
        use: a `tfmoe.inspection.ExpertUse`.
        words: `{expert: list of words}` of the experts to show, in this order.
    """
    load, importance = over_mean(use.load), over_mean(use.importance)
    return [
        [str(expert), f"{load[expert]:.2f}", f"{importance[expert]:.2f}", " ".join(expert_words)]
        for expert, expert_words in words.items()
    ]


def by_load(use):
    """The list of all experts in descending order of load."""
    return (-use.load).argsort(kind="stable").tolist()
