"""`tfmoe inspect`: what the experts of a trained model do."""

import contextlib
import json as json_format
import math
import pathlib
import sys
from typing import Annotated

import typer

from tfmoe.analysis.columns import table
from tfmoe.cli import arguments
from tfmoe.inspection.summary import HEAD, by_load, expert_rows
from tfmoe.tasks.tensorflow_import import import_tensorflow

MOST_ROWS = 32


def inspect(
    run: arguments.Run,
    data: arguments.Data = None,
    direction: arguments.Direction = None,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="A label a line (a domain, a language…), beside each line of the text: a file for "
            "each of the text's files, in their order.",
        ),
    ] = None,
    sentences: Annotated[
        int, typer.Option(metavar="N", help="Read at most so many, evenly spread over the text.")
    ] = 5000,
    expert: Annotated[
        list[int] | None,
        typer.Option(
            metavar="N",
            help="Show the contexts that this expert weighs highest. May be given repeatedly.",
        ),
    ] = None,
    weights: arguments.Weights = "best",
    shuffles: Annotated[
        int, typer.Option(metavar="N", help="Shuffles for the baselines of information.")
    ] = 20,
    html: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="FILE", help="Write everything as one page, with plots."),
    ] = None,
    csv: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="FILE", help="Write the routing: a row for each token and expert it goes to."
        ),
    ] = None,
    json: arguments.Json = False,
):
    """Show which experts a trained model uses, and for what.

    The text is followed through the model at evaluation, a translation model's on the reference
    translations. Of each mixture: how evenly the experts are used, the words that go to each more
    than elsewhere, which experts are chosen together, and how much the choice tells, as mutual
    information in bits: on the token, and on a label of its line. Beside it stands what shuffled
    text gives, which a small text makes more than 0. Without --labels, a text of several directions
    or files is labelled by these. If the run has both best and last weights, of different steps,
    their routings are compared. Without --data, the run's own test text is used.

    \b
    Examples:
      tfmoe inspect runs/demo/moe
      tfmoe inspect runs/demo/moe --html experts.html
      tfmoe inspect runs/mine --data my/test.txt --labels my/test.domain --expert 3
      tfmoe inspect runs/translation --csv routing.csv --json

    \b
    With --json: {"files", "sentences", "labels", "layers": {NAME: {"experts", "load",
    "importance", "cv_load", …, "information_on_tokens": {"bits", "baseline_mean", …},
    "information_on_labels", "consistency", "pairs", "characteristic_words", "contexts"}}}.
    The columns of --csv: sentence, position, token, layer, expert, gate, rank.
    """
    for name, value, least in (("sentences", sentences, 1), ("shuffles", shuffles, 2)):
        if value < least:
            raise ValueError(f"--{name} must be at least {least}, got {value}")
    if csv is not None and html is not None and csv.resolve() == html.resolve():
        raise ValueError(f"--csv and --html must be different files, got {csv} for both")
    import_tensorflow()
    from data_pipelines.atomic_write import check_writable
    from tfmoe.inspection import page as inspection_page
    from tfmoe.inspection import write_routing_table
    from tfmoe.inspection.report import as_json, inspect_run

    for file in (csv, html):
        if file is not None:
            check_writable(file)
    with contextlib.redirect_stdout(sys.stderr):
        report = inspect_run(
            run,
            weights=weights,
            data=data,
            direction=direction,
            label_files=labels or (),
            sentences=sentences,
            experts=expert or (),
            shuffles=shuffles,
            seed=0,
            most_words=MOST_ROWS,
        )
        if csv is not None:
            routed = {layer.name: layer.routed for layer in report.layers}
            write_routing_table(routed, report.vocabulary, csv)
        if html is not None:
            inspection_page.write(report, html)
    if json:
        print(json_format.dumps(as_json(report), ensure_ascii=False))
        return
    print(summary(report, show_contexts=bool(expert)))
    for path in (csv, html):
        if path is not None:
            print(f"\nwritten: {path}")


def summary(report, show_contexts):
    """A `Report` for a terminal.

    Args:
        report: the report.
        show_contexts: whether to show contexts of experts.
    """
    parts = []
    for layer in report.layers:
        parts += [headline(layer, report), table(figures(layer, report), "<<"), experts(layer)]
        if show_contexts:
            parts += [
                f"Where {layer.name} weighs expert {expert} highest:\n{context_table(found)}"
                for expert, found in layer.contexts.items()
            ]
    return "\n\n".join(parts)


def headline(layer, report):
    """One line on what a layer was inspected on."""
    routed = layer.routed
    return (
        f"{layer.name}: {routed.num_experts} experts, "
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
    return table([HEAD, *rows], ">>><") + more


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
    return table(rows, ">>><<")


def visible(token):
    """A token's text; a sign for a token that is nothing but a space."""
    return token if token.strip() else "␣"
