"""Plots of training runs. Each function returns a matplotlib `Figure`, and writes it as PNG if a
path is given.
"""

import io
import itertools
import math

from tfmoe.analysis.printable import plot_text
from tfmoe.data_pipelines.atomic_write import atomic_write_bytes
from tfmoe.extras import optional

matplotlib, ticker = optional("matplotlib"), optional("matplotlib.ticker")
figures = optional("matplotlib.figure")


def perplexity_curves(histories, path=None, title="", size=(7, 4.5)):
    """Plots validation perplexity against the words trained on, one curve per run.

    Args:
        histories: `{label: rows of history.csv}`, as `RunDirectory.read_history` returns them. Rows
            without `val_perplexity` are skipped.
        path: path of the PNG file; `None` to write no file.
        title: title of the plot.
        size: width and height in inches.
    """
    figure = figures.Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.subplots()
    draw_perplexity_curves(axes, histories)
    axes.set_title(plot_text(title))
    return saved(figure, path)


def curves_side_by_side(panels, lowest=None, path=None):
    """Plots perplexity curves, one panel per comparison.

    Args:
        panels: `{title: histories}`, histories as for `perplexity_curves`.
        lowest: `{title: (label, perplexity)}`: the lowest possible perplexity of a panel, drawn as
            a line.
        path: path of the PNG file; `None` to write no file.
    """
    figure = figures.Figure(figsize=(5.5 * len(panels), 4.5), dpi=150, layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, histories) in zip(row, panels.items(), strict=True):
        draw_perplexity_curves(axes, histories, (lowest or {}).get(title))
        axes.set_title(plot_text(title))
    return saved(figure, path)


def draw_perplexity_curves(axes, histories, lowest=None):
    """Draws validation perplexity against the words trained on.

    Args:
        axes: matplotlib axes.
        histories: as for `perplexity_curves`.
        lowest: `(label, perplexity)` of a horizontal line, or `None`.
    """
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
            # The legend shows the last values: next to the curves, similar values would overlap.
            last = points[-1][1]
            entry = f"{plot_text(label)} ({last:.{1 if last >= 10 else 2}f} at the end)"
            axes.plot(*zip(*points, strict=True), "o-", markersize=3.5, color=color, label=entry)
            values += [value for _, value in points]
    if lowest:
        label, value = lowest
        axes.axhline(value, color="gray", linestyle="--", label=f"{plot_text(label)} ({value:.2f})")
        values.append(value)
    if values:
        axes.legend(frameon=False)
    logarithmic(axes.yaxis, values)
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep=""))
    axes.set_xlim(left=0)
    axes.set_xlabel("words trained on")
    axes.set_ylabel("validation perplexity per word")
    axes.grid(alpha=0.3)


def perplexity_by_experts(points, path=None, title=""):
    """Plots test perplexity against the number of experts (Figure 2, left).

    Args:
        points: list of `(expert count, mean perplexity, standard deviation of perplexity)`.
        path: path of the PNG file; `None` to write no file.
        title: title of the plot.
    """
    figure = figures.Figure(figsize=(7, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    expert_counts, means, deviations = zip(*sorted(points), strict=True)
    axes.errorbar(expert_counts, means, yerr=deviations, fmt="o-", markersize=5, capsize=3)
    logarithmic(axes.yaxis, [mean + sign * d for _, mean, d in points for sign in (-1, 1)])
    axes.set_xscale("log")
    axes.set_xticks(expert_counts, labels=[str(count) for count in expert_counts])
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.set_xlabel("experts")
    axes.set_ylabel("test perplexity per word")
    axes.grid(alpha=0.3)
    axes.set_title(plot_text(title))
    return saved(figure, path)


def perplexity_and_load(labels, perplexities, loads, path=None, costs=None, reference=None):
    """Plots test perplexity, the largest load over the mean load and the cost, one row per model.

    Args:
        labels: labels of the rows, top to bottom.
        perplexities: list of `(mean, standard deviation)`, one per row.
        loads: `{name of the data: list of loads}`, one load per row, `None` for a model without
            experts.
        path: path of the PNG file; `None` to write no file.
        costs: processor seconds per training step, one per row or `None`; `None` for no third
            panel.
        reference: a perplexity that is drawn as a line, or `None`.
    """
    num_panels = 2 if costs is None else 3
    size = (3 + 3 * num_panels, 1.8 + 0.35 * len(labels))
    figure = figures.Figure(figsize=size, dpi=150, layout="constrained")
    left, right, *last = panels = figure.subplots(1, num_panels, sharey=True)
    rows = range(len(labels))
    if reference is not None:
        left.axvline(reference, color="gray", linestyle="--", linewidth=1)
    means, deviations = zip(*perplexities, strict=True)
    left.errorbar(means, rows, xerr=deviations, fmt="o", markersize=5, capsize=3)
    left.set_yticks(rows, labels=[plot_text(label) for label in labels])
    left.invert_yaxis()
    left.set_xlabel("test perplexity per word")
    plotted = [1.0]
    for (label, values), marker in zip(loads.items(), itertools.cycle("osD^"), strict=False):
        points = [(value, row) for value, row in zip(values, rows, strict=True) if value]
        if points:
            right.plot(*zip(*points, strict=True), marker, markersize=5, alpha=0.8, label=label)
            plotted += [value for value, _ in points]
            right.legend(frameon=False, fontsize="small")
    logarithmic(right.xaxis, plotted)
    right.set_xlabel("largest load over mean load")
    for axes in last:
        milliseconds = [math.nan if cost is None else 1000 * cost for cost in costs]
        axes.barh(rows, milliseconds, height=0.5, alpha=0.7)
        axes.set_xlabel("processor milliseconds per step")
    for axes in panels:
        axes.margins(y=0.5 / len(labels))
        axes.grid(alpha=0.3)
    return saved(figure, path)


def logarithmic(axis, values):
    """Makes an axis logarithmic, with tick labels that suit the plotted values."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    if values:
        axis.set_major_locator(ticks_between(min(values), max(values)))
    axis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    axis.set_minor_locator(ticker.NullLocator())


def saved(figure, path=None):
    """Returns the figure, after writing it as PNG if a path is given."""
    if path is not None:
        save(figure, path)
    return figure


def save(figure, path):
    """Writes a figure as PNG. The file appears under its name when it is complete."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    atomic_write_bytes(path, buffer.getvalue())


def ticks_between(lowest, highest):
    """A tick locator for a logarithmic axis: at least three labels that do not overlap."""
    ratio = highest / lowest
    if ratio < 4:
        return ticker.MaxNLocator(8, steps=[1, 2, 2.5, 5, 10])
    return ticker.LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if ratio < 30 else (1, 2, 5))
