"""Plots of what gates decide and of what follows from it: which experts tokens go to, how evenly,
and what attention looks at.

Every function returns a `matplotlib.figure.Figure`, which a notebook shows and
`tfmoe.analysis.plots.save` writes. Experts have the same colour in all of them.

Axes: T tokens, E experts, R rows, C columns.
"""

import itertools

import numpy as np

from tfmoe.analysis.printable import plot_text
from tfmoe.extras import optional

matplotlib, ticker = optional("matplotlib"), optional("matplotlib.ticker")
figures, color_maps = optional("matplotlib.figure"), optional("matplotlib.colors")

DPI = 90
FEW = 20  # experts that have a colour and a label each


def dense_gates(routing, num_tokens):
    """The gate values `G(x)_i` of a `tfmoe.gating.Routing` as one matrix.

    Args:
        routing: what `MoE.route` or a gate's `route` returned.
        num_tokens: T.

    Returns:
        `[T, E]` float32, 0 where a token does not go to an expert.
    """
    tokens, experts, gates = (each.numpy() for each in routing.assignments.by_token())
    num_experts = routing.assignments.counts.shape[0]
    matrix = np.zeros((num_tokens, num_experts), np.float32)
    matrix[tokens, experts] = gates
    return matrix


def gate_matrices(matrices, title=""):
    """Draws gate values, tokens by experts, and above them how many tokens each expert gets.

    Args:
        matrices: `{label: [T, E]}`, one panel each, side by side; 0 where a token does not go.
        title: above all.
    """
    figure = figures.Figure(figsize=(2.3 * len(matrices) + 1, 4.6), dpi=DPI, layout="constrained")
    panels = figure.subplots(2, len(matrices), squeeze=False, height_ratios=(1, 4), sharey="row")
    for (label, gates), (bars, cells) in zip(matrices.items(), panels.T, strict=True):
        num_experts = gates.shape[1]
        bars.bar(range(num_experts), np.count_nonzero(gates, axis=0), color="tab:gray")
        bars.set_title(plot_text(label), fontsize="medium")
        bars.set_xlim(-0.5, num_experts - 0.5)
        bars.set_xticks([])
        bars.spines[["top", "right"]].set_visible(False)
        image = cells.imshow(gates, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        cells.set_xlabel("expert")
        cells.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    panels[0, 0].set_ylabel("tokens")
    panels[1, 0].set_ylabel("token")
    figure.colorbar(image, ax=panels[1].tolist(), label="gate value", shrink=0.8, pad=0.01)
    figure.suptitle(plot_text(title))
    return figure


def loads_over_mean(loads, title=""):
    """Draws how many tokens each expert gets, as a multiple of the mean, the busiest first.

    Args:
        loads: `{label: [E]}`, one line each.
        title: above the plot.
    """
    figure = figures.Figure(figsize=(6, 3.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.color_sequences["tab10"]
    for (label, load), color in zip(loads.items(), itertools.cycle(colors), strict=False):
        load = np.sort(load)[::-1] / np.mean(load)
        ranks = np.arange(1, len(load) + 1)
        named = f"{plot_text(label)} (largest {load[0]:.2f})"
        axes.step(ranks, load, where="mid", color=color, label=named)
    axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True))
    axes.set_xlabel("expert, the busiest first")
    axes.set_ylabel("load over mean load")
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    axes.set_title(plot_text(title))
    return figure


def expert_map(panels, extent, title=""):
    """Draws parts of a plane: values as shades, and which expert has the largest gate as colours.

    Args:
        panels: `{label: [R, C]}`, the first row at the top: float values, or int expert ids.
        extent: left, right, bottom and top of the plane.
        title: above all.
    """
    figure = figures.Figure(figsize=(2.2 * len(panels) + 0.4, 2.7), dpi=DPI, layout="constrained")
    values = [each for each in panels.values() if not np.issubdtype(each.dtype, np.integer)]
    low, high = (f(values) if values else 0 for f in (np.min, np.max))
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, panel) in zip(every, panels.items(), strict=True):
        if np.issubdtype(panel.dtype, np.integer):
            last = FEW - 1
            options = {"cmap": expert_colors(), "vmin": 0, "vmax": last, "interpolation": "nearest"}
            axes.imshow(panel % FEW, extent=extent, **options)
        else:
            axes.imshow(panel, extent=extent, cmap="gray", vmin=low, vmax=high)
        axes.set_title(plot_text(label), fontsize="medium")
        axes.set_xticks([])
        axes.set_yticks([])
    figure.suptitle(plot_text(title))
    return figure


def heat_map(
    values, rows, columns, row_label, column_label, value_label, title="", most_numbers=100
):
    """Draws a labelled matrix; a small one with its values in the cells.

    Args:
        values: `[R, C]`, not negative; NaN for an empty cell.
        rows, columns: their names, R and C.
        row_label, column_label, value_label: what rows, columns and values are.
        title: above the plot.
        most_numbers: values to write into the cells; of a larger matrix none are.

    Raises:
        ValueError: if the names are not as many as the values.
    """
    values = np.asarray(values, float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must be [{len(rows)}, {len(columns)}], as there are names of rows and "
            f"columns, got shape {list(values.shape)}"
        )
    size = (1.8 + 0.32 * max(len(columns), 8), 1.2 + 0.3 * max(len(rows), 3))
    figure = figures.Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    high = np.nanmax(values)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=high, aspect="auto")
    steep = max(map(len, columns)) > 2
    axes.set_xticks(
        range(len(columns)),
        labels=list(map(plot_text, columns)),
        rotation=90 if steep else 0,
        fontsize="small",
    )
    axes.set_yticks(range(len(rows)), labels=list(map(plot_text, rows)), fontsize="small")
    if values.size <= most_numbers:
        for place in np.ndindex(values.shape):
            if np.isfinite(values[place]):
                color = "white" if values[place] > 0.6 * high else "black"
                text = f"{values[place]:,.3g}" if values[place] < 1000 else f"{values[place]:,.0f}"
                axes.text(*place[::-1], text, ha="center", va="center", color=color, size=7)
    axes.set_xlabel(plot_text(column_label))
    axes.set_ylabel(plot_text(row_label))
    figure.colorbar(image, label=plot_text(value_label), pad=0.01)
    axes.set_title(plot_text(title), fontsize="medium")
    return figure


def attention_map(weights, source, target, title=""):
    """Draws how much each step of a translation attends to each step of its source.

    Args:
        weights: `[T, S]`, whose rows sum to 1.
        source, target: the subwords, S and T strings.
        title: above the plot.
    """
    names = ("translation", "source", "attention")
    return heat_map(weights, target, source, *names, title, most_numbers=0)


def expert_colors():
    """A colour for each of the first `FEW` experts; further ones take them again."""
    colors = matplotlib.color_sequences["tab20"]
    return color_maps.ListedColormap([color_maps.to_rgb(color) for color in colors])
