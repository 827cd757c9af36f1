"""Plots of training runs."""

import itertools
import pathlib

import matplotlib
from matplotlib import ticker
from matplotlib.figure import Figure


def perplexity_curves(histories, path, title):
    """Draws validation perplexity against the words trained on, one curve for each run.

    Args:
        histories: `{label: rows of history.csv}`, see `RunDirectory.read_history`. Rows without
            `val_perplexity` are left out.
        path: of the PNG file.
        title: above the plot.
    """
    figure = Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_yscale("log")
    colors = matplotlib.color_sequences["tab10"]
    drawn = []
    for (label, rows), color in zip(histories.items(), itertools.cycle(colors), strict=False):
        words = itertools.accumulate(row["words"] for row in rows)
        points = [
            (total, row["val_perplexity"])
            for total, row in zip(words, rows, strict=True)
            if "val_perplexity" in row
        ]
        if points:
            # The last value stands in the legend: beside the curves two like ones would overlap.
            named = f"{label} ({points[-1][1]:.1f} at the end)"
            axes.plot(*zip(*points, strict=True), "o-", markersize=3.5, color=color, label=named)
            drawn += [value for _, value in points]
    if drawn:
        axes.yaxis.set_major_locator(ticks_between(min(drawn), max(drawn)))
        axes.legend(frameon=False)
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.set_xlabel("words trained on")
    axes.set_ylabel("validation perplexity per word")
    axes.grid(alpha=0.3)
    axes.set_title(title)
    path = pathlib.Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def ticks_between(lowest, highest):
    """Where a logarithmic axis has its labels: some, whatever it spans, and none that touch."""
    ratio = highest / lowest
    if ratio < 4:
        return ticker.MaxNLocator(8, steps=[1, 2, 2.5, 5, 10])
    return ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if ratio < 30 else (1, 2, 5))
