"""The routing of a text as a table, one row for each pair of a token and one of its experts."""

import csv
import os
from typing import Any

import numpy as np

from tfmoe.analysis.printable import cell
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.extras import is_installed, optional
from tfmoe.inspection.contexts import spelling
from tfmoe.inspection.routing import RoutedText

data_frames = optional("pandas")

COLUMNS = {
    "sentence": np.int64,
    "position": np.int64,
    "token": object,
    "layer": object,
    "expert": np.int32,
    "gate": np.float32,
    "rank": np.int64,
}
ROW = np.dtype(list(COLUMNS.items()))


def routing_table(
    routed: dict[str, RoutedText], vocabulary: Any = None, pandas: bool | None = None
):
    """Converts the routing of a text to a table.

    Args:
        routed: `{name of the layer: RoutedText}`, the output of `route_text`.
        vocabulary: the texts of ids, see `spelling`; `None` for the ids as text.
        pandas: whether to return a `pandas.DataFrame`; `None` for `True` if pandas is installed.

    Returns:
        A DataFrame or a structured array with the columns `sentence` (line number, from 1),
        `position` (from 0), `token`, `layer`, `expert`, `gate` (`G(x)_i`) and `rank` (rank of the
        expert among the token's experts, from 1), sorted by layer, sentence, position and rank. A
        token without an expert has no row.

    Raises:
        MissingExtra: if `pandas` is `True` and pandas is not installed.
    """
    if pandas is None:
        pandas = is_installed("pandas")
    to_word = spelling(vocabulary)
    parts = []
    for name, text in routed.items():
        ids, inverse = np.unique(text.tokens, return_inverse=True)
        words = np.array([to_word(int(index)) for index in ids], object)
        part = np.empty(len(text.places), ROW)
        part["sentence"] = text.lines[text.places]
        part["position"] = text.positions[text.places]
        part["token"] = words[inverse[text.places]]
        part["layer"] = name
        part["expert"] = text.experts
        part["gate"] = text.gates
        part["rank"] = text.ranks
        parts.append(part)
    table = np.concatenate(parts) if parts else np.empty(0, ROW)
    if not pandas:
        return table
    return data_frames.DataFrame({name: table[name] for name in COLUMNS})


def write_routing_table(routed: dict[str, RoutedText], vocabulary: Any, path: str | os.PathLike):
    """Writes the table of `routing_table` as CSV, with six digits of gate values.

    Tokens and layer names that a spreadsheet would read as formulas have the prefix `'`. After
    reading the file with `csv.reader` or pandas, apply `text.removeprefix("'")`. Pandas needs
    `keep_default_na=False`, or a token `NA` is lost.

    Args:
        routed: `{name of the layer: RoutedText}`, the output of `route_text`.
        vocabulary: the texts of ids, see `spelling`; `None` for the ids as text.
        path: path of the file, which appears under its name when it is complete.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for name, text in routed.items():  # one layer at a time, to save memory
            table = routing_table({name: text}, vocabulary, pandas=False)
            for sentence, position, token, layer, expert, gate, rank in table.tolist():
                texts = cell(token), cell(layer)
                writer.writerow([sentence, position, *texts, expert, f"{gate:.6g}", rank])
