"""How often two things occur together, counted sparsely.

With 65,536 experts and 793,471 words a table of all pairs would have 5·10¹⁰ cells; those that occur
are at most as many as there are observations.
"""

from typing import NamedTuple

import numpy as np

# A table of so many cells is counted as it is, which is faster than sorting.
SMALL_TABLE = 1 << 20


class JointCounts(NamedTuple):
    """Which pairs occur, and how often, sorted by row and column.

    Attributes:
        rows: `[N]` int64.
        columns: `[N]` int64.
        counts: `[N]` int64, or float64 where observations had weights.
    """

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray

    def row(self, number):
        """Columns and counts of one row: two arrays."""
        begin, end = np.searchsorted(self.rows, [number, number + 1])
        return self.columns[begin:end], self.counts[begin:end]

    def matrix(self, num_rows, num_columns):
        """The full table, `[num_rows, num_columns]`, where that is small."""
        table = np.zeros((num_rows, num_columns), self.counts.dtype)
        table[self.rows, self.columns] = self.counts
        return table


def joint_counts(rows, columns, num_columns, weights=None):
    """Counts pairs.

    Args:
        rows: `[A]` non-negative integers.
        columns: `[A]` integers in `[0, num_columns)`.
        num_columns: integer.
        weights: `[A]`, how much each pair counts; `None` for 1.

    Returns:
        `JointCounts`.
    """
    keys = np.asarray(rows).astype(np.int64) * num_columns + columns
    if len(keys) and keys.max() < SMALL_TABLE:
        seen = np.bincount(keys)
        present = np.flatnonzero(seen)
        counts = seen if weights is None else np.bincount(keys, weights)
        counts = counts[present]
    elif weights is None:
        present, counts = np.unique(keys, return_counts=True)
    else:
        present, inverse = np.unique(keys, return_inverse=True)
        counts = np.bincount(inverse, weights, len(present))
    return JointCounts(present // num_columns, present % num_columns, counts)
