"""Plots of what the experts of a mixture do. Each returns a matplotlib `Figure`, and writes it as
PNG if it is given a path.
"""

import itertools

import numpy as np

from tfmoe.analysis.plots import logarithmic, saved
from tfmoe.analysis.printable import plot_text
from tfmoe.extras import optional
from tfmoe.inspection import over_mean

figures, ticker = optional("matplotlib.figure"), optional("matplotlib.ticker")

SIZE = 5, 3.4
MOST_BARS = 128
COLORS = [f"C{index}" for index in range(10)]  # matplotlib's colours, in its order


def load_and_importance(use, path=None, title=""):
    """Draws load and importance of each expert over their means, the most loaded expert first.

    Args:
        use: `tfmoe.inspection.ExpertUse`.
        path: of the PNG file; `None` to write none.
        title: above the plot.
    """
    figure, axes = empty(title)
    order = np.argsort(-use.load, kind="stable")
    places = np.arange(len(order))
    load, importance = (over_mean(each)[order] for each in (use.load, use.importance))
    if len(order) <= MOST_BARS:
        axes.bar(places, load, width=0.9, color=COLORS[0], alpha=0.6, label="load")
        axes.plot(places, importance, ".", markersize=4, color=COLORS[1], label="importance")
    else:  # bars would be finer than a pixel
        axes.fill_between(places, load, step="mid", color=COLORS[0], alpha=0.6, label="load")
        axes.plot(places, importance, ",", color=COLORS[1], label="importance")
    axes.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    axes.set_xlim(-0.7, len(order) - 0.3)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.set_xlabel("experts, by their load")
    axes.set_ylabel("over the mean")
    axes.legend(frameon=False)
    return saved(figure, path)


def co_selection_map(pairs, experts=None, path=None, title=""):
    """Draws how many times as often as by chance experts are chosen together.

    Args:
        pairs: `tfmoe.inspection.CoSelection`.
        experts: ids of those to show, in their order; `None` for the 64 that are in most pairs,
            those that are often chosen together side by side.
        path, title: as for `load_and_importance`.
    """
    if experts is None:
        paired = np.count_nonzero(pairs.in_pairs)
        most = np.argsort(-pairs.in_pairs, kind="stable")[: min(paired, 64)]
        experts = neighbours(pairs, most)
    figure = figures.Figure(figsize=(5, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    ratio_map(figure, axes, pairs.lift(experts), 4, "times as often as by chance")
    name_experts(axes.xaxis, experts)
    name_experts(axes.yaxis, experts)
    axes.set(xlabel="expert", ylabel="expert", title=plot_text(title))
    return saved(figure, path)


def label_map(names, shares, of_text, path=None, title="", most=32):
    """Draws which labels each expert's tokens have more often than the whole text, a row for each
    expert.

    Args:
        names: the labels.
        shares, of_text: `[E, L]` and `[L]`, see `tfmoe.inspection.label_shares`.
        path, title: as for `load_and_importance`.
        most: experts to show; of more, those whose shares differ most from the text's.
    """
    shares, of_text = np.asarray(shares), np.asarray(of_text)
    used = np.flatnonzero(shares.sum(axis=1))
    distance = np.abs(shares[used] - of_text).sum(axis=1)
    used = used[np.argsort(-distance, kind="stable")[:most]]
    ratios = np.divide(shares, of_text, out=np.zeros_like(shares), where=of_text > 0)
    # Experts of the same label stand together.
    rows = used[np.lexsort((-ratios[used].max(axis=1), ratios[used].argmax(axis=1)))]
    figure = figures.Figure(figsize=(5, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    ratio_map(figure, axes, ratios[rows], 3, "times as often as in the whole text")
    axes.set_aspect("auto")
    crowded = len(names) > 4 or sum(map(len, names)) > 36
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    shown = [name if len(name) <= 24 else f"…{name[-23:]}" for name in names]
    axes.set_xticks(
        range(len(names)), labels=list(map(plot_text, shown)), fontsize="small", **turned
    )
    axes.set_yticks(range(len(rows)), labels=rows.tolist(), fontsize=6)
    axes.set(ylabel="expert", title=plot_text(title))
    return saved(figure, path)


def balance_curves(history, path=None, title=""):
    """Draws how evenly the experts were used in each epoch: the largest load over the mean.

    Args:
        history: rows of history.csv, see `RunDirectory.read_history`.
        path, title: as for `load_and_importance`.
    """
    figure, axes = empty(title)
    ending = "_max_over_mean_load"
    names = dict.fromkeys(name for row in history for name in row if name.endswith(ending))
    layers = dict.fromkeys(name.removeprefix("val_").removesuffix(ending) for name in names)
    colors = dict(zip(layers, itertools.cycle(COLORS), strict=False))
    shown = []
    for name in names:
        epochs, values = zip(*((r["epoch"], r[name]) for r in history if name in r), strict=True)
        layer, validated = name.removeprefix("val_").removesuffix(ending), name.startswith("val_")
        label = f"{plot_text(layer)}, {'validation' if validated else 'training'}"
        style = "o-" if validated else "s--"
        axes.plot(epochs, values, style, markersize=3.5, color=colors[layer], label=label)
        shown += values
    if shown:
        axes.legend(frameon=False, fontsize="small")
        logarithmic(axes.yaxis, [1, *shown])
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel("largest load over mean load")
    axes.grid(alpha=0.3)
    return saved(figure, path)


def empty(title):
    """A figure of the usual size, and its axes."""
    figure = figures.Figure(figsize=SIZE, dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.set_title(plot_text(title))
    return figure, axes


def name_experts(axis, experts):
    """Labels some places of an axis with the experts that lie there."""
    step = -(-len(experts) // 8)
    places = range(0, len(experts), step)
    axis.set_ticks(places, labels=[str(experts[place]) for place in places])


def ratio_map(figure, axes, ratios, most, label):
    """Draws a matrix of ratios, red over 1 and blue under it.

    Args:
        figure, axes: where.
        ratios: a matrix, NaN where there is nothing to show.
        most: the colours reach from `2^-most` to `2^most`.
        label: of the colour bar.
    """
    with np.errstate(divide="ignore"):
        powers = np.clip(np.log2(ratios), -most, most)
    image = axes.imshow(powers, cmap="RdBu_r", vmin=-most, vmax=most, interpolation="nearest")
    half = most // 2
    bar = figure.colorbar(image, ax=axes, shrink=0.8, ticks=[-most, -half, 0, half, most])
    bar.ax.set_yticklabels([f"≤ 1/{2**most}", f"1/{2**half}", "1", str(2**half), f"≥ {2**most}"])
    bar.set_label(label)


def neighbours(pairs, experts):
    """Experts in an order in which those that are often chosen together are near each other.

    It is that of the second eigenvector of the matrix of pairs over the root of what chance gives,
    whose first one is the root of how often each expert occurs.

    Args:
        pairs: `CoSelection`.
        experts: `[N]` ids.
    """
    expected = pairs.expected(experts[:, None], experts[None, :])
    affinity = np.nan_to_num(pairs.lift(experts)) * np.sqrt(expected)
    _, vectors = np.linalg.eigh(affinity / (affinity.max() or 1))
    return experts[np.argsort(vectors[:, -2] if len(experts) > 1 else [0], kind="stable")]
