"""What an inspection found, as text and tables for a terminal; `page` shows the same rows."""

import math

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.printable import printable
from tfmoe.inspection.use import over_mean

HEADING = ["expert", "load/mean", "importance/mean", "words that go there more than elsewhere"]
MOST_ROWS = 32


def inspection_summary(report, show_contexts=False):
    """A `Report` for a terminal.

    Args:
        report: the report.
        show_contexts: whether to show contexts of experts.
    """
    parts = []
    for layer in report.layers:
        parts += [headline(layer, report), aligned(figures(layer, report), "<<"), experts(layer)]
        if show_contexts:
            where = f"Where {printable(layer.name)} weighs expert"
            parts += [
                f"{where} {expert} highest:\n{context_table(found)}"
                for expert, found in layer.contexts.items()
            ]
    return "\n\n".join(parts)


def headline(layer, report):
    """One line on what a layer was inspected on."""
    routed = layer.routed
    return (
        f"{printable(layer.name)}: {routed.num_experts} experts, "
        f"{len(routed.places) / len(routed.tokens):.2f} for a token, on {len(routed.tokens):,} "
        f"tokens of {report.sentences:,} sentences ({report.weights} weights)"
    )


def figures(layer, report):
    """Rows of what was measured and the figure, for the terminal and for the page."""
    use = layer.use.summary()
    most = math.log2(layer.routed.num_experts)
    rows = [
        [
            "load",
            f"CV {use['cv_load']:.2f}, largest {use['max_over_mean_load']:.2f} of the mean, "
            f"{use['unused_experts']} unused, entropy {use['load_entropy']:.2f} of {most:.2f} bits",
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
        found = layer.consistency
        rows.append(
            [
                f"{report.weights} and {report.other_weights}",
                f"{found.same_experts:.1%} of tokens have the same experts, Jaccard "
                f"{found.jaccard:.3f} (chance {found.chance:.3f}), {found.kept_mass:.1%} of the "
                "gate values stay",
            ]
        )
    return rows


def information(found, what):
    """A `MutualInformation` in words.

    Args:
        found: the information.
        what: whose entropy it is a share of, beside the experts'.
    """
    return (
        f"{found.bits:.3f} bits (shuffled {found.baseline_mean:.3f} ± "
        f"{found.baseline_deviation:.3f}); {found.share_of_experts:.1%} of the experts' entropy, "
        f"{found.share_of_labels:.1%} of the {what}"
    )


def experts(layer):
    """A table of the experts of a layer: load, importance, characteristic words."""
    rows, left = most_used(layer)
    more = f"\nand {left:,} experts with less load" if left else ""
    return aligned([HEADING, *rows], ">>><") + more


def most_used(layer):
    """Rows for the most used experts of a layer, and how many are left out."""
    order = by_load(layer.use)
    words = {expert: layer.words[expert] for expert in order[:MOST_ROWS]}
    return expert_rows(layer.use, words), len(order) - len(words)


def context_table(found):
    """A table of `Context`s, their tokens below one another."""
    if not found:
        return "  it got no token"
    rows = [
        [
            f"{each.gate:.3f}",
            f"line {each.sentence}",
            each.before,
            f"[{visible(each.token)}]",
            each.after,
        ]
        for each in found
    ]
    return aligned(rows, ">>><<")


def visible(token):
    """A token's text; a sign for a token that is nothing but a space."""
    return token if token.strip() else "␣"


def expert_rows(use, words):
    """Rows of strings: an expert, its load and importance over their means, its words.

    Args:
        use: a `tfmoe.inspection.ExpertUse`.
        words: `{expert: list of words}` of the experts to show, in their order.
    """
    load, importance = over_mean(use.load), over_mean(use.importance)
    return [
        [str(expert), f"{load[expert]:.2f}", f"{importance[expert]:.2f}", " ".join(mine)]
        for expert, mine in words.items()
    ]


def by_load(use):
    """All experts, the most loaded first: a list."""
    return (-use.load).argsort(kind="stable").tolist()
