"""Plots of routing: gate values, loads, experts on a plane, and matrices such as attention.

Every function returns a `matplotlib.figure.Figure`, which notebooks display and
`tfmoe.analysis.plots.save` writes. An expert has the same colour in all plots.

Axes: T tokens, E experts, R rows, C columns.
"""

import itertools

import numpy as np

from tfmoe.analysis.printable import plot_text
from tfmoe.extras import optional

matplotlib, ticker = optional("matplotlib"), optional("matplotlib.ticker")
figures, color_maps = optional("matplotlib.figure"), optional("matplotlib.colors")

DPI = 90
NUM_COLORS = 20  # experts with distinct colours


def dense_gates(routing, num_tokens):
    """The gate values `G(x)_i` of a `tfmoe.gating.Routing` as a dense matrix.

    Args:
        routing: the output of `MoE.route` or of a gate's `route`.
        num_tokens: T.

    Returns:
        `[T, E]` float32, 0 for experts that are not selected.
    """
    tokens, experts, gates = (tensor.numpy() for tensor in routing.assignments.by_token())
    num_experts = routing.assignments.counts.shape[0]
    matrix = np.zeros((num_tokens, num_experts), np.float32)
    matrix[tokens, experts] = gates
    return matrix


def gate_matrices(matrices, title=""):
    """Plots gate values, tokens by experts, below bars of the experts' token counts.

    Args:
        matrices: `{label: [T, E]}`, one panel per matrix, side by side; 0 for experts that are not
            selected.
        title: title of the figure.
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
    """Plots the loads of experts over their mean, in descending order.

    Args:
        loads: `{label: [E]}`, token counts of experts, one line per label.
        title: title of the plot.
    """
    figure = figures.Figure(figsize=(6, 3.4), dpi=DPI, layout="constrained")
    axes = figure.subplots()
    colors = matplotlib.color_sequences["tab10"]
    for (label, load), color in zip(loads.items(), itertools.cycle(colors), strict=False):
        load = np.sort(load)[::-1] / np.mean(load)
        ranks = np.arange(1, len(load) + 1)
        entry = f"{plot_text(label)} (largest {load[0]:.2f})"
        axes.step(ranks, load, where="mid", color=color, label=entry)
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
    """Plots functions on a plane: float values in grey, expert ids in colours.

    Args:
        panels: `{label: [R, C]}`, one panel per array, first row at the top: float values, or
            integer ids of the experts with the largest gate.
        extent: left, right, bottom and top of the plane.
        title: title of the figure.
    """
    figure = figures.Figure(figsize=(2.2 * len(panels) + 0.4, 2.7), dpi=DPI, layout="constrained")
    values = [panel for panel in panels.values() if not np.issubdtype(panel.dtype, np.integer)]
    low, high = (f(values) if values else 0 for f in (np.min, np.max))
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (label, panel) in zip(all_axes, panels.items(), strict=True):
        if np.issubdtype(panel.dtype, np.integer):
            last = NUM_COLORS - 1
            options = {"cmap": expert_colors(), "vmin": 0, "vmax": last, "interpolation": "nearest"}
            axes.imshow(panel % NUM_COLORS, extent=extent, **options)
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
    """Plots a matrix with named rows and columns. Cells of a small matrix show their values.

    Args:
        values: `[R, C]`, non-negative; NaN for an empty cell.
        rows: R names.
        columns: C names.
        row_label: label of the row axis.
        column_label: label of the column axis.
        value_label: label of the colour bar.
        title: title of the plot.
        most_numbers: size of the largest matrix whose cells show their values.

    Raises:
        ValueError: if the shape of `values` is not `[R, C]`.
    """
    values = np.asarray(values, float)
    if values.shape != (len(rows), len(columns)):
        raise ValueError(
            f"values must have shape [{len(rows)}, {len(columns)}], the number of row and column "
            f"names, got {list(values.shape)}"
        )
    size = (1.8 + 0.32 * max(len(columns), 8), 1.2 + 0.3 * max(len(rows), 3))
    figure = figures.Figure(figsize=size, dpi=DPI, layout="constrained")
    axes = figure.subplots()
    high = np.nanmax(values)
    image = axes.imshow(values, cmap="Blues", vmin=0, vmax=high, aspect="auto")
    rotated = max(map(len, columns)) > 2
    axes.set_xticks(
        range(len(columns)),
        labels=list(map(plot_text, columns)),
        rotation=90 if rotated else 0,
        fontsize="small",
    )
    axes.set_yticks(range(len(rows)), labels=list(map(plot_text, rows)), fontsize="small")
    if values.size <= most_numbers:
        for row, column in np.ndindex(values.shape):
            value = values[row, column]
            if np.isfinite(value):
                color = "white" if value > 0.6 * high else "black"
                text = f"{value:,.3g}" if value < 1000 else f"{value:,.0f}"
                axes.text(column, row, text, ha="center", va="center", color=color, size=7)
    axes.set_xlabel(plot_text(column_label))
    axes.set_ylabel(plot_text(row_label))
    figure.colorbar(image, label=plot_text(value_label), pad=0.01)
    axes.set_title(plot_text(title), fontsize="medium")
    return figure


def attention_map(weights, source, target, title=""):
    """Plots the attention weights of a translation's steps over the source's steps.

    Args:
        weights: `[T, S]`, rows sum to 1.
        source: S subwords, strings.
        target: T subwords, strings.
        title: title of the plot.
    """
    names = ("translation", "source", "attention")
    return heat_map(weights, target, source, *names, title, most_numbers=0)


def expert_colors():
    """The colours of the first `NUM_COLORS` experts; they repeat for further experts."""
    colors = matplotlib.color_sequences["tab20"]
    return color_maps.ListedColormap([color_maps.to_rgb(color) for color in colors])
