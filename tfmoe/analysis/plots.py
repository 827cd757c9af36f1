"""Plots of training runs. Each returns a matplotlib `Figure`, and writes it as PNG if it is given a
path.
"""

import io
import itertools

from tfmoe.analysis.printable import drawn
from tfmoe.data_pipelines.atomic_write import atomic_write_bytes
from tfmoe.extras import optional

matplotlib, ticker = optional("matplotlib"), optional("matplotlib.ticker")
figures = optional("matplotlib.figure")


def perplexity_curves(histories, path=None, title="", size=(7, 4.5)):
    """Draws validation perplexity against the words trained on, one curve for each run.

    Args:
        histories: `{label: rows of history.csv}`, see `RunDirectory.read_history`. Rows without
            `val_perplexity` are left out.
        path: of the PNG file; `None` to write none.
        title: above the plot.
        size: width and height in inches.
    """
    figure = figures.Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.color_sequences["tab10"]
    values = []
    for (label, rows), color in zip(histories.items(), itertools.cycle(colors), strict=False):
        words = itertools.accumulate(row["words"] for row in rows)
        points = [
            (total, row["val_perplexity"])
            for total, row in zip(words, rows, strict=True)
            if "val_perplexity" in row
        ]
        if points:
            # The last value stands in the legend: beside the curves two like ones would overlap.
            named = f"{drawn(label)} ({points[-1][1]:.1f} at the end)"
            axes.plot(*zip(*points, strict=True), "o-", markersize=3.5, color=color, label=named)
            values += [value for _, value in points]
    if values:
        axes.legend(frameon=False)
    logarithmic(axes.yaxis, values)
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.set_xlabel("words trained on")
    axes.set_ylabel("validation perplexity per word")
    axes.grid(alpha=0.3)
    axes.set_title(drawn(title))
    return saved(figure, path)


def perplexity_by_experts(points, path=None, title=""):
    """Draws test perplexity against the number of experts (Figure 2, left).

    Args:
        points: list of `(number of experts, mean perplexity, its standard deviation)`.
        path: of the PNG file; `None` to write none.
        title: above the plot.
    """
    figure = figures.Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    numbers, means, deviations = zip(*sorted(points), strict=True)
    axes.errorbar(numbers, means, yerr=deviations, fmt="o-", markersize=5, capsize=3)
    logarithmic(axes.yaxis, [mean + sign * d for _, mean, d in points for sign in (-1, 1)])
    axes.set_xscale("log")
    axes.set_xticks(numbers, labels=[str(number) for number in numbers])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("experts")
    axes.set_ylabel("test perplexity per word")
    axes.grid(alpha=0.3)
    axes.set_title(drawn(title))
    return saved(figure, path)


def perplexity_and_load(labels, perplexities, loads, path=None):
    """Draws test perplexity and the largest load over the mean, a row for each model.

    Args:
        labels: of the rows, from top to bottom.
        perplexities: list of `(mean, standard deviation)`, for each row.
        loads: `{where measured: list of loads, None for a model without experts}`.
        path: of the PNG file; `None` to write none.
    """
    figure = figures.Figure(figsize=(9, 1.8 + 0.35 * len(labels)), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = range(len(labels))
    means, deviations = zip(*perplexities, strict=True)
    left.errorbar(means, rows, xerr=deviations, fmt="o", markersize=5, capsize=3)
    left.set_yticks(rows, labels=[drawn(label) for label in labels])
    left.invert_yaxis()
    left.set_xlabel("test perplexity per word")
    shown = [1.0]
    for (label, values), marker in zip(loads.items(), itertools.cycle("osD^"), strict=False):
        points = [(value, row) for value, row in zip(values, rows, strict=True) if value]
        if points:
            right.plot(*zip(*points, strict=True), marker, markersize=5, alpha=0.8, label=label)
            shown += [value for value, _ in points]
            right.legend(frameon=False, fontsize="small")
    logarithmic(right.xaxis, shown)
    right.set_xlabel("largest load over mean load")
    for axes in (left, right):
        axes.margins(y=0.5 / len(labels))
        axes.grid(alpha=0.3)
    return saved(figure, path)


def logarithmic(axis, values):
    """Makes an axis logarithmic, with labels that suit the values drawn."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if values:
        axis.set_major_locator(ticks_between(min(values), max(values)))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def saved(figure, path=None):
    """The figure; written as PNG, if there is a path."""
    if path is not None:
        save(figure, path)
    return figure


def save(figure, path):
    """Writes a figure as PNG, which appears under its name only when it is complete."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    atomic_write_bytes(path, buffer.getvalue())


def ticks_between(lowest, highest):
    """Where a logarithmic axis has its labels: some, whatever it spans, and none that touch."""
    ratio = highest / lowest
    if ratio < 4:
        return ticker.MaxNLocator(8, steps=[1, 2, 2.5, 5, 10])
    return ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if ratio < 30 else (1, 2, 5))
