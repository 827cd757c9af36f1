"""Plots of the use of experts. Each function returns a matplotlib `Figure`, and writes it as PNG if
a path is given.
"""

import itertools

import numpy as np

from tfmoe.analysis.plots import logarithmic, saved
from tfmoe.analysis.printable import plot_text
from tfmoe.extras import optional
from tfmoe.inspection import over_mean

figures, ticker = optional("matplotlib.figure"), optional("matplotlib.ticker")

SIZE = 5, 3.4
MAX_BARS = 128
COLORS = [f"C{index}" for index in range(10)]  # matplotlib's colours, in its order


def load_and_importance(use, path=None, title=""):
    """Plots load and importance of the experts over their means, in descending order of load.

    Args:
        use: a `tfmoe.inspection.ExpertUse`.
        path: path of the PNG file; `None` to write no file.
        title: title of the plot.
    """
    figure, axes = new_axes(title)
    order = np.argsort(-use.load, kind="stable")
    ranks = np.arange(len(order))
    load, importance = (over_mean(values)[order] for values in (use.load, use.importance))
    if len(order) <= MAX_BARS:
        axes.bar(ranks, load, width=0.9, color=COLORS[0], alpha=0.6, label="load")
        axes.plot(ranks, importance, ".", markersize=4, color=COLORS[1], label="importance")
    else:  # bars would be narrower than a pixel
        axes.fill_between(ranks, load, step="mid", color=COLORS[0], alpha=0.6, label="load")
        axes.plot(ranks, importance, ",", color=COLORS[1], label="importance")
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.set_xlabel("experts, by their load")
    axes.set_ylabel("over the mean")
    axes.legend(frameon=False)
    return saved(figure, path)


def co_selection_map(pairs, experts=None, path=None, title=""):
    """Plots the ratio of observed to expected co-selections of experts.

    Args:
        pairs: a `tfmoe.inspection.CoSelection`.
        experts: ids of the experts to show, in this order; `None` for the 64 experts in most pairs,
            with frequently co-selected experts next to each other.
        path: path of the PNG file; `None` to write no file.
        title: title of the plot.
    """
    if experts is None:
        num_paired = np.count_nonzero(pairs.in_pairs)
        top_experts = np.argsort(-pairs.in_pairs, kind="stable")[: min(num_paired, 64)]
        experts = sort_by_affinity(pairs, top_experts)
    figure = figures.Figure(figsize=(5, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    ratio_map(figure, axes, pairs.lift(experts), 4, "times as often as by chance")
    label_experts(axes.xaxis, experts)
    label_experts(axes.yaxis, experts)
    axes.set(xlabel="expert", ylabel="expert", title=plot_text(title))
    return saved(figure, path)


def label_map(names, shares, of_text, path=None, title="", most=32):
    """Plots the shares of labels in each expert's tokens relative to the whole text, one row per
    expert.

    Args:
        names: the labels.
        shares: `[E, L]`, the shares of labels of each expert, see `tfmoe.inspection.label_shares`.
        of_text: `[L]`, the shares of labels in the whole text.
        path: path of the PNG file; `None` to write no file.
        title: title of the plot.
        most: maximum number of experts; those whose shares differ most from the whole text's are
            shown.
    """
    shares, of_text = np.asarray(shares), np.asarray(of_text)
    used = np.flatnonzero(shares.sum(axis=1))
    distance = np.abs(shares[used] - of_text).sum(axis=1)
    used = used[np.argsort(-distance, kind="stable")[:most]]
    ratios = np.divide(shares, of_text, out=np.zeros_like(shares), where=of_text > 0)
    # Sort the experts by their most over-represented label.
    rows = used[np.lexsort((-ratios[used].max(axis=1), ratios[used].argmax(axis=1)))]
    figure = figures.Figure(figsize=(5, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    ratio_map(figure, axes, ratios[rows], 3, "times as often as in the whole text")
    axes.set_aspect("auto")
    crowded = len(names) > 4 or sum(map(len, names)) > 36
    rotation = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    labels = [plot_text(name if len(name) <= 24 else f"…{name[-23:]}") for name in names]
    axes.set_xticks(range(len(names)), labels=labels, fontsize="small", **rotation)
    axes.set_yticks(range(len(rows)), labels=rows.tolist(), fontsize=6)
    axes.set(ylabel="expert", title=plot_text(title))
    return saved(figure, path)


def balance_curves(history, path=None, title=""):
    """Plots the largest expert load over the mean load in each epoch.

    Args:
        history: rows of history.csv, as `RunDirectory.read_history` returns them.
        path: path of the PNG file; `None` to write no file.
        title: title of the plot.
    """
    figure, axes = new_axes(title)
    suffix = "_max_over_mean_load"
    names = dict.fromkeys(name for row in history for name in row if name.endswith(suffix))
    layers = dict.fromkeys(name.removeprefix("val_").removesuffix(suffix) for name in names)
    colors = dict(zip(layers, itertools.cycle(COLORS), strict=False))
    plotted = []
    for name in names:
        epochs, values = zip(*((r["epoch"], r[name]) for r in history if name in r), strict=True)
        layer = name.removeprefix("val_").removesuffix(suffix)
        is_validation = name.startswith("val_")
        label = f"{plot_text(layer)}, {'validation' if is_validation else 'training'}"
        style = "o-" if is_validation else "s--"
        axes.plot(epochs, values, style, markersize=3.5, color=colors[layer], label=label)
        plotted += values
    if plotted:
        axes.legend(frameon=False, fontsize="small")
        logarithmic(axes.yaxis, [1, *plotted])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("largest load over mean load")
    axes.grid(alpha=0.3)
    return saved(figure, path)


def new_axes(title):
    """A figure of the default size and its axes."""
    figure = figures.Figure(figsize=SIZE, dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(plot_text(title))
    return figure, axes


def label_experts(axis, experts):
    """Sets ticks at up to eight positions of an axis, labelled with their experts."""
    step = -(-len(experts) // 8)
    positions = range(0, len(experts), step)
    axis.set_ticks(positions, labels=[str(experts[position]) for position in positions])


def ratio_map(figure, axes, ratios, limit, label):
    """Plots a matrix of ratios, red above 1 and blue below 1.

    Args:
        figure: the matplotlib figure.
        axes: its axes.
        ratios: a matrix, NaN for cells without a value.
        limit: the colour scale spans `2^-limit` to `2^limit`.
        label: label of the colour bar.
    """
    with np.errstate(divide="ignore"):
        powers = np.clip(np.log2(ratios), -limit, limit)
    image = axes.imshow(powers, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    half = limit // 2
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[-limit, -half, 0, half, limit])
    bar.ax.set_yticklabels([f"≤ 1/{2**limit}", f"1/{2**half}", "1", str(2**half), f"≥ {2**limit}"])
    bar.set_label(label)


def sort_by_affinity(pairs, experts):
    """Sorts experts such that frequently co-selected experts are close to each other.

    The order is that of the second eigenvector of the matrix `counts / √expected`, whose first
    eigenvector is the square root of the experts' frequencies.

    Args:
        pairs: a `CoSelection`.
        experts: `[N]` ids.
    """
    expected = pairs.expected(experts[:, None], experts[None, :])
    affinity = np.nan_to_num(pairs.lift(experts)) * np.sqrt(expected)
    _, vectors = np.linalg.eigh(affinity / (affinity.max() or 1))
    return experts[np.argsort(vectors[:, -2] if len(experts) > 1 else [0], kind="stable")]
