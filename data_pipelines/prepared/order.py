"""The order in which training reads rows: a function of the seed, the pass and the batch.

Rows are those of several texts (files in a direction of translation; one for a language model),
sorted by cell, see `bucketing`. A pass has a fixed number of rows of each cell. Its rows are a
permutation of the cell's, and so are its batches. Nothing is read and nothing is kept to find the
rows of a batch, whichever batch it is.

If all weights are equal, a pass has every row once. Otherwise text p has the share `w_p·N_p / Σ
w·N` of the rows: each text is read again and again, each time in another permutation; a pass begins
in it about where the pass before ended, and how many rows it gives is rounded at random.

Axes: G texts, C cells, L lengths of a row, B rows.
"""

import dataclasses

import numpy as np

from tfmoe.data_pipelines.bucketing import Bucketing
from tfmoe.data_pipelines.prepared.permutations import hashed, permuted

TRAINING_ORDER = 1  # increase it when the same seed gives another order
# What a hash is for.
BATCHES, CELLS, TEXTS, SHARES = range(4)


@dataclasses.dataclass(frozen=True)
class RowsOfBatch:
    """Rows of a batch.

    Args:
        steps: int64 `[L]`, the steps of the batch.
        texts: int64 `[B]`, the text of each row.
        rows: int64 `[B]`, the number of each row, among all rows sorted by text and cell.
    """

    steps: np.ndarray
    texts: np.ndarray
    rows: np.ndarray


class Order:
    """The order of the rows of texts.

    Args:
        counts: int64 `[G, C]`, rows of each text in each cell.
        weights: G numbers above 0: how often a text is read, as a multiple of its natural share.
        bucketing: the `Bucketing` of the cells.
        seed: integer.

    Attributes:
        batches: number of batches in a pass.
    """

    def __init__(self, counts, weights, bucketing: Bucketing, seed):
        self._counts = np.asarray(counts, np.int64)
        self._firsts = np.concatenate([[0], np.cumsum(self._counts)[:-1]]).reshape(counts.shape)
        self._bucketing, self._seed = bucketing, seed
        self._is_weighted = len(set(weights)) > 1
        natural = self._counts.sum(0)
        if self._is_weighted:
            factors = np.array(weights) * natural.sum() / (weights @ self._counts).sum()
            expected = factors[:, None] * self._counts
            self._draws = np.ceil(expected.sum(0) - 1e-9).astype(np.int64)
            expected *= self._draws / np.maximum(expected.sum(0), 1e-300)
        else:
            expected, self._draws = self._counts.astype(np.float64), natural
        self._expected = expected
        until = np.cumsum(expected, 0)  # of a pass's rows of a cell, up to each text
        self._until = np.where(until > self._draws - 1e-6, self._draws, until)
        self._full, left = np.divmod(self._draws, bucketing.sizes)
        self._last_full = np.cumsum(self._full)
        self._left_cells = np.repeat(np.arange(len(left)), left)
        self._left_offsets = np.concatenate(
            [np.arange(n - rest, n) for n, rest in zip(self._draws, left, strict=True)]
        ).astype(np.int64)
        self._cuts = bucketing.remainder.cut(self._left_cells).numpy()
        self.batches = int(self._last_full[-1]) + len(self._cuts)

    def rows_of(self, batch: int, replica: int = 0, replicas: int = 1) -> RowsOfBatch:
        """Returns rows of a batch.

        Args:
            batch: number of the batch, from 0, through all passes.
            replica, replicas: which rows of the B of the batch: `B·r//R` to `B·(r+1)//R`.
        """
        pass_index, batch = divmod(int(batch), self.batches)
        key = hashed(self._seed, pass_index, BATCHES)
        steps, cells, offsets = self._cells_of(int(permuted([batch], [self.batches], key)[0]))
        begin, end = (len(cells) * r // replicas for r in (replica, replica + 1))
        cells, offsets = cells[begin:end], offsets[begin:end]
        key = hashed(self._seed, pass_index, CELLS, cells)
        offsets = permuted(offsets, self._draws[cells], key)
        texts, before = self._texts(pass_index, cells, offsets)
        return RowsOfBatch(steps, texts, self._rows(pass_index, texts, cells, offsets - before))

    def _cells_of(self, batch):
        """A batch before all permutations: its steps, and cells and offsets in them, `[B]`."""
        bucketing = self._bucketing
        if batch < self._last_full[-1]:
            cell = np.searchsorted(self._last_full, batch, "right")
            size = bucketing.sizes[cell]
            begin = (batch - self._last_full[cell] + self._full[cell]) * size
            return bucketing.steps[cell], np.full(size, cell), np.arange(begin, begin + size)
        begin, end, *steps = self._cuts[batch - self._last_full[-1]]
        return np.array(steps), self._left_cells[begin:end], self._left_offsets[begin:end]

    def _texts(self, pass_index, cells, offsets):
        """The text of each offset in a cell, and how many offsets come before the text's."""
        if len(self._counts) == 1:
            return np.zeros(len(cells), np.int64), 0
        shift = (hashed(self._seed, pass_index, SHARES, cells) >> np.uint64(11)) / 2.0**53
        until = np.floor(self._until[:, cells] + shift)  # [G, B]
        until[-1] = self._draws[cells]
        texts = (offsets >= until).sum(0)
        before = np.where(texts > 0, until[texts - 1, np.arange(len(cells))], 0)
        return texts, before.astype(np.int64)

    def _rows(self, pass_index, texts, cells, offsets):
        """Numbers of rows, at offsets among the rows that a text gives of a cell in a pass."""
        if self._is_weighted:
            begins = np.floor(pass_index * self._expected[texts, cells]).astype(np.int64)
            counts = self._counts[texts, cells]
            readings, offsets = np.divmod(begins + offsets, counts)
            offsets = permuted(offsets, counts, hashed(self._seed, TEXTS, readings, texts, cells))
        return self._firsts[texts, cells] + offsets
