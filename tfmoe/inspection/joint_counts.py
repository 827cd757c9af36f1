"""Sparse counts of pairs.

With 65,536 experts and 793,471 words, a table of all pairs would have 5·10¹⁰ cells. The number of
pairs that occur is at most the number of observations.
"""

from typing import NamedTuple

import numpy as np

# Up to this number of cells, counting in a dense table is faster than sorting.
SMALL_TABLE = 1 << 20


class JointCounts(NamedTuple):
    """The pairs that occur and their counts, sorted by row and column.

    Attributes:
        rows: `[N]` int64.
        columns: `[N]` int64.
        counts: `[N]` int64, or float64 for weighted observations.
    """

    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray

    def row(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The columns and counts of a row.

        Args:
            number: index of the row.
        """
        start, end = np.searchsorted(self.rows, [number, number + 1])
        return self.columns[start:end], self.counts[start:end]

    def matrix(self, num_rows: int, num_columns: int) -> np.ndarray:
        """The dense table of counts.

        Args:
            num_rows: number of rows of the table.
            num_columns: number of columns of the table.

        Returns:
            `[num_rows, num_columns]`.
        """
        table = np.zeros((num_rows, num_columns), self.counts.dtype)
        table[self.rows, self.columns] = self.counts
        return table


def joint_counts(
    rows: np.ndarray, columns: np.ndarray, num_columns: int, weights: np.ndarray | None = None
) -> JointCounts:
    """Counts pairs.

    Args:
        rows: `[A]` non-negative integers.
        columns: `[A]` integers in `[0, num_columns)`.
        num_columns: upper bound of `columns`.
        weights: `[A]`, weights of the pairs; `None` for weights of 1.
    """
    keys = np.asarray(rows).astype(np.int64) * num_columns + columns
    if len(keys) and keys.max() < SMALL_TABLE:
        occurrences = np.bincount(keys)
        present = np.flatnonzero(occurrences)
        counts = occurrences if weights is None else np.bincount(keys, weights)
        counts = counts[present]
    elif weights is None:
        present, counts = np.unique(keys, return_counts=True)
    else:
        present, inverse = np.unique(keys, return_inverse=True)
        counts = np.bincount(inverse, weights, len(present))
    return JointCounts(present // num_columns, present % num_columns, counts)
