"""`tfmoe inspect`: shows which tokens the experts of a trained model specialise in."""

import contextlib
import pathlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.analysis.printable import printable
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json

MAX_SHUFFLES = 10_000  # more take hours and change no printed digit
Labels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="A file with one label (a domain, a language, …) for each line of the text. Repeat "
        "it for each file of the text, in order.",
    ),
]
Sentences = Annotated[
    int,
    typer.Option(metavar="N", help="Read at most N sentences, evenly spread over the text."),
]
Expert = Annotated[
    list[int] | None,
    typer.Option(
        metavar="N",
        help="Show the contexts with the highest gate values of this expert. Can be repeated.",
    ),
]
Shuffles = Annotated[
    int,
    typer.Option(metavar="N", help="Number of shuffles for the baselines of mutual information."),
]
Html = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="Write the report as a page with plots."),
]
Csv = Annotated[
    pathlib.Path | None,
    typer.Option(
        metavar="FILE", help="Write the routing table: a row for each token and selected expert."
    ),
]


def inspect(
    run: arguments.Run,
    data: arguments.Data = None,
    direction: arguments.Direction = None,
    labels: Labels = None,
    sentences: Sentences = 5000,
    expert: Expert = None,
    weights: arguments.Weights = "best",
    shuffles: Shuffles = 20,
    html: Html = None,
    csv: Csv = None,
    json: arguments.Json = False,
):
    """Show which tokens each expert of a trained model specialises in.

    Routes the text through the model at evaluation; a translation model reads the reference
    translations. For each mixture, prints how evenly the load is balanced, the characteristic words
    of each expert, which experts are selected together, and the mutual information in bits between
    the expert and the token, and between the expert and the line's label. The baseline is the
    mutual information of shuffled text, which is above 0 for a small text. Without --labels, the
    labels are the directions or the files of the text, if there are several. If the best and the
    last weights are of different steps, their routings are compared. Without --data, the run's test
    text is used.

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
    Columns of --csv: sentence, position, token, layer, expert, gate, rank. A token that begins
    with ', or that a spreadsheet would read as a formula, is prefixed with '.
    """
    arguments.check_range("--sentences", sentences, 1)
    arguments.check_range("--shuffles", shuffles, 2, MAX_SHUFFLES)
    if csv is not None and html is not None and csv.resolve() == html.resolve():
        raise ValueError(f"--csv and --html must be different files, got {csv} for both")
    with contextlib.redirect_stdout(sys.stderr):
        report = tasks.inspect_run(
            run,
            weights,
            data,
            direction,
            label_files=labels or (),
            sentences=sentences,
            experts=tuple(expert or ()),
            shuffles=shuffles,
            csv=csv,
            html=html,
        )
    if json:
        print_json(tasks.inspection_as_json(report))
        return
    print(tasks.inspection_summary(report, show_contexts=bool(expert)))
    for path in (csv, html):
        if path is not None:
            print(f"\nwritten: {printable(str(path))}")
