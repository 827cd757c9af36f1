"""`tfmoe inspect`: what the experts of a trained model do."""

import contextlib
import pathlib
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.analysis.printable import printable
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json

MOST_SHUFFLES = 10_000  # more take hours, and change no digit that is shown
Labels = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILE",
        help="A label a line (a domain, a language…), beside each line of the text: a file for "
        "each of the text's files, in their order.",
    ),
]
Sentences = Annotated[
    int, typer.Option(metavar="N", help="Read at most so many, evenly spread over the text.")
]
Expert = Annotated[
    list[int] | None,
    typer.Option(
        metavar="N",
        help="Show the contexts that this expert weighs highest. May be given repeatedly.",
    ),
]
Shuffles = Annotated[
    int, typer.Option(metavar="N", help="Shuffles for the baselines of information.")
]
Html = Annotated[
    pathlib.Path | None,
    typer.Option(metavar="FILE", help="Write everything as one page, with plots."),
]
Csv = Annotated[
    pathlib.Path | None,
    typer.Option(
        metavar="FILE", help="Write the routing: a row for each token and expert it goes to."
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
    The columns of --csv: sentence, position, token, layer, expert, gate, rank. A token that a
    spreadsheet would take for a formula, or that begins with ', has one more ' before it.
    """
    arguments.check_range("--sentences", sentences, 1)
    arguments.check_range("--shuffles", shuffles, 2, MOST_SHUFFLES)
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
