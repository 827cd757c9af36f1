"""The routing of a text as a table: a row for each token and each expert that it goes to."""

import csv

import numpy as np

from tfmoe.analysis.printable import cell
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.extras import is_installed, optional
from tfmoe.inspection.contexts import spelling

data_frames = optional("pandas")

COLUMNS = np.dtype(
    [
        ("sentence", np.int64),
        ("position", np.int64),
        ("token", object),
        ("layer", object),
        ("expert", np.int32),
        ("gate", np.float32),
        ("rank", np.int64),
    ]
)


def routing_table(routed, vocabulary, pandas=None):
    """The routing of a text as a tidy table.

    Args:
        routed: `{name of the layer: RoutedText}`, as `route_text` gives it.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary` or `Subwords`, for the tokens' spelling.
        pandas: whether to make a `pandas.DataFrame`; `None` for: if pandas is installed.

    Returns:
        A DataFrame or a structured array with the columns `sentence` (number of the line, from 1),
        `position` (from 0), `token`, `layer`, `expert`, `gate` (`G(x)_i`) and `rank` (of the expert
        among those of the token, from 1), sorted by layer, sentence, position and rank. A token
        that no expert takes has no row.

    Raises:
        MissingExtra: if pandas is asked for, and is not installed.
    """
    if pandas is None:
        pandas = is_installed("pandas")
    spelled = spelling(vocabulary)
    parts = []
    for name, text in routed.items():
        ids, inverse = np.unique(text.tokens, return_inverse=True)
        words = np.array([spelled(int(index)) for index in ids], object)
        part = np.empty(len(text.places), COLUMNS)
        part["sentence"] = text.lines[text.places]
        part["position"] = text.positions[text.places]
        part["token"] = words[inverse[text.places]]
        part["layer"] = name
        part["expert"] = text.experts
        part["gate"] = text.gates
        part["rank"] = text.ranks
        parts.append(part)
    table = np.concatenate(parts) if parts else np.empty(0, COLUMNS)
    if not pandas:
        return table
    return data_frames.DataFrame({name: table[name] for name in COLUMNS.names})


def write_routing_table(routed, vocabulary, path):
    """Writes the table as CSV, gate values with six digits. Tokens and names of layers that a
    spreadsheet would take for formulas have a `'` before them, see `cell`: read back by
    `csv.reader` or pandas (`keep_default_na=False`, or a token `NA` is lost), they are
    `text.removeprefix("'")`.

    Args:
        routed, vocabulary: as for `routing_table`.
        path: of the file, which appears under its name only when it is complete.
    """
    with atomic_write(path) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS.names)
        for name, text in routed.items():  # a layer at a time: the rows are many
            table = routing_table({name: text}, vocabulary, pandas=False)
            for *place, token, layer, expert, gate, rank in table.tolist():
                texts = cell(token), cell(layer)
                writer.writerow([*place, *texts, expert, f"{gate:.6g}", rank])
