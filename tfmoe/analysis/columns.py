"""Plain-text tables."""

from tfmoe.analysis.printable import printable


def aligned(rows: list[list[str]], align: str) -> str:
    """Formats rows as a table with aligned columns.

    Args:
        rows: lists of strings, all of the same length. Control characters are escaped.
        align: one character per column, `"<"` (left) or `">"` (right).

    Returns:
        A string with one line per row.
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
