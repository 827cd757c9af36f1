"""Tables of text."""


def aligned(rows, align):
    """Rows in aligned columns.

    Args:
        rows: lists of strings, equally many in each.
        align: for each column `"<"` (left) or `">"` (right).

    Returns:
        A string of one line per row.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            f"{cell:{side}{width}}" for cell, side, width in zip(row, align, widths, strict=True)
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
