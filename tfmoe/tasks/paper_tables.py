"""Recomputes the operations and parameters of the paper's tables from the shipped configs."""

import contextlib
import difflib
from typing import Any

import tensorflow as tf

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.operations import describe
from tfmoe.config.builders import build_model
from tfmoe.config.loader import load_config
from tfmoe.config.shipped import shipped_configs

# Per column: the unit that the tables print, its decimals (or more if a figure has more), and our
# heading.
UNITS = {
    "ops_per_timestep": (10**6, 1, "ops/timestep M"),
    "parameters": (10**6, 1, "parameters M"),
    "total": (10**9, 1, "total B"),
}
# Table 1 repeats rows of Table 7, rounded to whole millions except for small numbers of operations:
# `(row, row of Table 7, (ops/timestep, decimals), (parameters, decimals))`. Its other columns are
# measurements.
TABLE_1 = [
    ("2xLSTM-8192-1024 (best published)", "2xLSTM-8192-1024", (151, 0), (151, 0)),
    ("MoE-4096-h (low-budget)", "MoE-4096-h", (8.9, 1), (4303, 0)),
    ("MoE-34M (medium-budget)", "MoE-34M", (33.8, 1), (4313, 0)),
    ("MoE-143M (high-budget)", "MoE-143M", (142.7, 1), (4371, 0)),
]
# The rows of GNMT. Its cost here differs, see configs/wmt14/_gnmt.yaml.
GNMT_ROWS = {
    "GNMT": ("Table 2", "Table 3", "Table 4"),
    "GNMT-Mono": ("Table 5",),
    "GNMT-Multi": ("Table 5",),
}
GNMT_OPS = (
    "GNMT has 41.9 M more, which our blocks cannot express: the backward direction of its first "
    "encoder layer, 8.4, the second layer's weights for it, 4.2, and the attention's context as "
    "input of seven more decoder layers, 29.4; with them the figure is 213.9"
)
GNMT_TOTAL = (
    "GNMT has the 41.9 M that ops/timestep lacks; with them, and with a second embedding where our "
    "two languages share one, the total is 283 M; our copy of the paper does not explain the rest "
    "of the difference to the printed 278 M"
)
# Why a figure differs from the printed one by more than rounding.
REASONS = {
    (table, row, column): reason
    for row, tables in GNMT_ROWS.items()
    for table in tables
    for column, reason in (("ops_per_timestep", GNMT_OPS), ("total", GNMT_TOTAL))
} | {
    ("Table 7", "MoE-256", "ops_per_timestep"): "the formula that reproduces all other rows (all "
    "matrices of the LSTMs, 4 experts, both matrices of the gate) gives 8.65, which rounds to 8.7",
    ("Table 7", "2xLSTM-8192-1024", "parameters"): "the matrices have 150.99 M parameters; the "
    "biases of two LSTMs of 8192 units, which the printed figure omits, add 0.07 M",
    ("Table 7", "MoE-34M", "total"): "the printed parts, 4313.9 M and twice 793471 x 1024, also "
    "add up to 5.94",
    ("Table 1", "MoE-34M (medium-budget)", "parameters"): "Table 7 prints 4313.9 for the same "
    "model; Table 1 truncates it instead of rounding",
}
# Tables 2 to 5 print ops/timestep in whole millions.
DECIMALS = {(f"Table {number}", "ops_per_timestep"): 0 for number in (2, 3, 4, 5)}
# Settings that the paper does not give.
NOTES = {
    "Table 5": "ops/timestep: the vocabulary of 32K is 32,768 here; with 32,000 MoE-Multi would "
    "have 101.3.",
    "Table 8": "total: our copy of the paper does not give the vocabulary size; we use 100,000. "
    "The printed totals of all rows are consistent with 76 to 109 thousand.",
}
TABLES = ("Table 1", "Table 2", "Table 3", "Table 4", "Table 5", "Table 7", "Table 8")


def recompute_tables(number: str | None = None, row: str | None = None) -> list[dict[str, Any]]:
    """Counts the models of the paper's tables, and compares with the printed figures.

    Args:
        number: number of a table, such as `"7"`; `None` for all.
        row: name of a row; `None` for all.

    Returns:
        List of the results of `recompute`.

    Raises:
        ValueError: if there is no such table or row.
    """
    names = TABLES if number is None else (table_name(number),)
    configs = {
        (config["table"], config["row"]): config["name"]
        for config in shipped_configs()
        if config["table"] in TABLES
    }
    rows = [(name, *columns) for name in names for columns in rows_of(name, configs)]
    if row is not None:
        check_row(row, [name for _, name, *_ in rows])
        rows = [columns for columns in rows if columns[1] == row]
    with contextlib.suppress(RuntimeError):  # raised if TensorFlow has initialized the devices
        tf.config.set_visible_devices([], "GPU")  # counting needs no GPU
    return [recompute(*columns) for columns in rows]


def table_name(number):
    """`"Table 7"` for `"7"` or `"table 7"`.

    Raises:
        ValueError: if the table has no figures to recompute.
    """
    name = f"Table {str(number).lower().removeprefix('table').strip()}"
    if name not in TABLES:
        raise ValueError(
            "--table must be 1 to 5, 7 or 8, the tables with operations and parameters of shipped "
            f"configs, got {number!r}"
        )
    return name


def check_row(row, rows):
    """Raises a ValueError that suggests the nearest row, if there is no such row."""
    if row in rows:
        return
    by_lower_case = {name.lower(): name for name in rows}
    near = difflib.get_close_matches(row.lower(), by_lower_case, n=1)
    hint = f"did you mean {by_lower_case[near[0]]!r}?" if near else f"rows: {', '.join(rows)}"
    raise ValueError(f"--row: there is no row {row!r}; {hint}")


def rows_of(name, configs):
    """The rows of a table: list of `(row, name of its config, {column: (printed, decimals)})`, with
    `None` for the printed figures if the config has them.

    Args:
        name: of the table.
        configs: `{(table, row): name of the config}`.
    """
    if name == "Table 1":
        return [
            (row, configs["Table 7", row_7], {"ops_per_timestep": ops, "parameters": parameters})
            for row, row_7, ops, parameters in TABLE_1
        ]
    return [(row, config, None) for (table, row), config in configs.items() if table == name]


def recompute(table, row, name, printed):
    """Recomputes one row: an item of the list that `tfmoe tables --json` prints.

    Args:
        table, row: of the paper.
        name: name of the config.
        printed: `{column: (figure in the column's unit, decimals)}`, or `None` to take the figures
            from the config.
    """
    config = load_config(name)
    counts = describe(build_model(config))
    ours = {
        "ops_per_timestep": counts["ops_per_timestep"],
        "parameters": counts["parameters"]["excluding_embedding_and_softmax"],
        "total": counts["parameters"]["total"],
    }
    if printed is None:
        paper = config.paper
        figures = (paper.ops_per_timestep_millions, paper.parameters_millions, paper.total_billions)
        printed = {
            column: (figure, decimals_of(figure, DECIMALS.get((table, column), UNITS[column][1])))
            for column, figure in zip(UNITS, figures, strict=True)
            if figure is not None
        }
    result = {"table": table, "row": row, "config": name}
    for column, value in ours.items():
        if column not in printed:
            result[column] = None
            continue
        unit = UNITS[column][0]
        figure, decimals = printed[column]
        within = round(value / unit, decimals) == figure
        paper_value = round(figure * unit)
        result[column] = {
            "ours": value,
            "paper": paper_value,
            "difference": value - paper_value,
            "within_rounding": within,
            "reason": None if within else REASONS.get((table, row, column), "not explained"),
        }
    return result


def decimals_of(figure, min_decimals):
    """The number of decimals of a printed figure, at least `min_decimals`."""
    return max(min_decimals, len(str(figure).partition(".")[2].rstrip("0")))


def tables_report(results: list[dict[str, Any]]) -> str:
    """The text that `tfmoe tables` prints.

    Args:
        results: the result of `recompute_tables`.
    """
    parts: list[str] = []
    reasons: list[str] = []
    for name in TABLES:
        rows = [row for row in results if row["table"] == name]
        if not rows:
            continue
        columns = [column for column in UNITS if any(row[column] for row in rows)]
        heading = ["row", "config"]
        for column in columns:
            heading += [UNITS[column][2], "paper", "difference"]
        lines = []
        for row in rows:
            line = [row["row"], row["config"]]
            for column in columns:
                line += _cells(row[column], column, reasons)
            lines.append(line)
        text = aligned([heading, *lines], "<<" + ">>>" * len(columns))
        parts.append("\n".join([name, text, *([NOTES[name]] if name in NOTES else [])]))
    if reasons:
        parts.append("\n".join(f"[{i}] {reason}" for i, reason in enumerate(reasons, start=1)))
    else:
        parts.append("All figures agree within rounding.")
    return "\n\n".join(parts)


def _cells(entry, column, reasons):
    """Our figure, the paper's and the difference. A difference of more than rounding gets a
    reference to its reason, which is added to `reasons`.
    """
    if entry is None:
        return ["", "", ""]
    unit, decimals, _ = UNITS[column]
    difference = f"{entry['difference'] / unit:+.{decimals + 2}f}"
    if entry["within_rounding"]:
        difference += "    "  # as wide as a reference
    else:
        if entry["reason"] not in reasons:
            reasons.append(entry["reason"])
        difference += f" [{reasons.index(entry['reason']) + 1}]"
    ours = f"{entry['ours'] / unit:,.{decimals + 2}f}"
    figure = entry["paper"] / unit
    return [ours, f"{figure:,.{decimals_of(figure, decimals)}f}", difference]
