"""Tables of text."""

from tfmoe.analysis.printable import printable


def aligned(rows, align):
    """Rows in aligned columns.

    Args:
        rows: lists of strings, equally many in each; control characters are escaped.
        align: for each column `"<"` (left) or `">"` (right).

    Returns:
        A string of one line per row.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
