"""Batches of rows of similar lengths.

A row has one length (a sentence) or several (a sentence and its translation). A batch is as wide as
one of a few numbers of steps for each length. Rows that fit the same numbers of steps are of one
cell; when a cell has enough rows, they are a batch.

Axes: R rows, L lengths of a row, C cells, B rows of a batch.
"""

import itertools

import numpy as np
import tensorflow as tf

SMALLEST_BUCKET = 8
BUCKET_GROWTH = 1.25


def bucket_boundaries(max_length: int) -> list[int]:
    """Returns the step counts that batches can have, rising geometrically to `max_length`.

    With a growth factor of 1.25 about a tenth of the positions is padding.

    Args:
        max_length: largest length of a row, at least 1.
    """
    boundaries, size = [], min(SMALLEST_BUCKET, max_length)
    while size < max_length:
        boundaries.append(size)
        size = int(size * BUCKET_GROWTH) + 1
    return [*boundaries, max_length]


class Bucketing:
    """Groups rows into batches, and counts the batches.

    The rows that are left in the cells when a pass ends are batches too. There are two ways to cut
    them, see `Separate` and `Merged`.

    Args:
        boundaries: for each length of a row, the rising list of steps that a batch can have.
        positions: largest number of positions of a batch, all lengths together, padding included. A
            batch has `B · (S₁ + … + S_L) <= positions`, or one row.
        remainder: `"separate"` or `"merged"`: how rows that are left become batches.

    Attributes:
        cells: int64 `[buckets of the first length, …]`, number of the cell. Cells are numbered by
            rising length.
        steps: int64 `[C, L]`, steps of the cell's batches.
        sizes: int64 `[C]`, rows of a full batch.

    Raises:
        ValueError: if `remainder` is something else.
    """

    def __init__(self, boundaries, positions, remainder):
        if remainder not in REMAINDERS:
            raise ValueError(f"remainder must be {' or '.join(REMAINDERS)}, got {remainder!r}")
        steps = sorted(
            itertools.product(*boundaries), key=lambda cell: (max(cell), sum(cell), cell)
        )
        indices = {cell: index for index, cell in enumerate(steps)}
        self.boundaries = [np.array(side, np.int64) for side in boundaries]
        self.cells = np.array(
            [indices[cell] for cell in itertools.product(*boundaries)], np.int64
        ).reshape([len(side) for side in boundaries])
        self.steps = np.array(steps, np.int64)
        self.sizes = np.maximum(1, positions // self.steps.sum(1))
        self.remainder = REMAINDERS[remainder](self.steps, positions)

    def cells_of(self, lengths):
        """Returns the cell of each row, int64 `[R]`. `lengths`: NumPy int64 `[R, L]`."""
        sides = zip(self.boundaries, np.transpose(lengths), strict=True)
        return self.cells[tuple(np.searchsorted(side, column) for side, column in sides)]

    def cells_in_graph(self, lengths):
        """The TensorFlow counterpart of `cells_of`. `lengths`: L tensors, int64 `[R]`."""
        indices = [
            tf.searchsorted(tf.constant(side), column, out_type=tf.int64)
            for side, column in zip(self.boundaries, lengths, strict=True)
        ]
        return tf.gather_nd(self.cells, tf.stack(indices, 1))

    def count_rows(self, lengths):
        """Returns how many rows each cell has, int64 `[C]`.

        Args:
            lengths: mapping from a row's lengths, a tuple, to the number of such rows.
        """
        counts = np.zeros(len(self.steps), np.int64)
        rows = np.array(list(lengths), np.int64).reshape(-1, len(self.boundaries))
        np.add.at(counts, self.cells_of(rows), list(lengths.values()))
        return counts

    def count_batches(self, counts):
        """Returns how many batches `batch` makes. `counts`: rows by cell, int64 `[C]`."""
        full, left = np.divmod(counts, self.sizes)
        return int(full.sum()) + self.remainder.count(left.tolist())

    def count_left(self, counts):
        """Returns how many rows do not fill a batch of their cell. `counts`: int64 `[C]`."""
        return int((counts % self.sizes).sum())

    def batch(self, chunks, rows_left=None):
        """Groups rows into batches.

        `group_by_window` would call functions for every row, which takes ten times as long as all
        else together. Here a scan over chunks of rows keeps the rows that do not yet fill a batch.

        Args:
            chunks: dataset of `(parts of the rows …, cells)`: int32 `[R, width]` each, and int64
                `[R]`.
            rows_left: `count_left` of all rows, to be checked at the end; `None` for no check.

        Returns:
            Dataset of `(parts, steps)`: a tuple of int32 `[B, width]`, and int64 `[L]`.
        """
        nothing = tuple(tf.zeros([0, *spec.shape[1:]], spec.dtype) for spec in chunks.element_spec)
        chunks = chunks.map(lambda *chunk: (*chunk, False))
        chunks = chunks.concatenate(tf.data.Dataset.from_tensors((*nothing, True)))

        def fill(waiting, chunk):
            *chunk, last = chunk
            parts, cuts, used = self._whole_batches(
                [tf.concat(both, 0) for both in zip(waiting, chunk, strict=True)]
            )
            # Without tf.cond, whose functions stay in memory until a garbage collection.
            end = tf.where(last, tf.size(parts[-1], tf.int64), used)
            if rows_left is not None:
                tf.debugging.Assert(
                    ~last | tf.equal(end - used, rows_left),
                    ["`lengths` are not those of these files and subwords: read them anew"],
                )
            cuts = tf.concat([cuts, self._cuts_of_rest(parts[-1][used:end], used)], 0)
            return tuple(part[end:] for part in parts), (parts[:-1], cuts)

        return chunks.scan(nothing, fill).flat_map(_cut)

    def _whole_batches(self, parts):
        """Sorts rows by cell, and those that do not fill a batch of their cell behind all others.

        Args:
            parts: parts of the rows, and their cells last.

        Returns:
            `(parts, cuts, used)`: the sorted ones; the full batches, int64 `[batches, 2 + L]`:
            begin, end and steps; and how many rows these have.
        """
        sizes, cells = tf.constant(self.sizes), parts[-1]
        order = tf.argsort(cells, stable=True)
        cells = tf.gather(cells, order)
        counts = tf.math.bincount(
            cells, minlength=len(self.sizes), maxlength=len(self.sizes), dtype=tf.int64
        )
        batches = counts // sizes
        filled = tf.cumsum(counts, exclusive=True) + batches * sizes
        left = tf.range(tf.size(cells, tf.int64)) >= tf.gather(filled, cells)
        order = tf.gather(order, tf.argsort(tf.cast(left, tf.int32), stable=True))
        cell = tf.repeat(tf.range(len(self.sizes), dtype=tf.int64), batches)
        size = tf.gather(sizes, cell)
        end = tf.cumsum(size)
        cuts = tf.concat([tf.stack([end - size, end], 1), tf.gather(self.steps, cell)], 1)
        return tuple(tf.gather(part, order) for part in parts), cuts, tf.reduce_sum(size)

    def _cuts_of_rest(self, cells, used):
        """Returns the cuts, int64 `[batches, 2 + L]`, of rows that do not fill a batch.

        Args:
            cells: int64 `[R]`, each row's cell; may be empty.
            used: rows before them.
        """
        offset = tf.concat([[used, used], tf.zeros([self.steps.shape[1]], tf.int64)], 0)
        return self.remainder.cut(cells) + offset


class Separate:
    """Remaining rows: a batch for each cell, in the order of the cells.

    Args:
        steps: int64 `[C, L]`, steps of the cells' batches.
        positions: largest number of positions of a batch of more than one row.
    """

    def __init__(self, steps, positions):
        self.steps = steps

    @staticmethod
    def count(left):
        """Returns how many batches `cut` makes. `left`: list of rows left, by cell."""
        return sum(map(bool, left))

    def cut(self, cells):
        """Cuts rows into batches.

        Args:
            cells: int64 `[R]`, each row's cell, rising.

        Returns:
            int64 `[batches, 2 + L]`: begin, end and steps.
        """
        cell, _, size = tf.unique_with_counts(cells, tf.int64)
        end = tf.cumsum(size)
        return tf.concat([tf.stack([end - size, end], 1), tf.gather(self.steps, cell)], 1)


class Merged:
    """Remaining rows: in the order of the cells they are cut into the largest possible batches,
    across neighbouring cells. The batches come in reverse, the rare long ones first.

    Args:
        steps: int64 `[C, L]`, steps of the cells' batches.
        positions: largest number of positions of a batch of more than one row.
    """

    def __init__(self, steps, positions):
        self.steps, self.positions = steps, positions
        # The most steps of the cells from one to another, int64 `[C, C, L]`.
        later = np.tri(len(steps), dtype=bool).T[..., None]
        self.widest = np.maximum.accumulate(np.where(later, steps[None], 0), axis=1)

    def count(self, left):
        """Returns how many batches `cut` makes. `left`: list of rows left, by cell."""
        batches, rows, size = 0, 0, None
        for steps, count in zip(self.steps.tolist(), left, strict=True):
            size = list(map(max, size, steps)) if rows else steps
            while count:
                more = min(count, self.positions // sum(size) - rows)
                if more <= 0 and rows:  # the batch is full
                    batches, rows, size = batches + 1, 0, steps
                else:
                    more = max(more, 1)
                    rows, count = rows + more, count - more
        return batches + (rows > 0)

    def cut(self, cells):
        """Cuts rows into batches.

        Args:
            cells: int64 `[R]`, each row's cell, rising.

        Returns:
            int64 `[batches, 2 + L]`: begin, end and steps.
        """
        rows, lengths = tf.size(cells, tf.int64), self.steps.shape[1]

        def one_batch(begin, cuts):
            widest = tf.gather(tf.constant(self.widest)[cells[begin]], cells[begin:])
            counts = tf.range(1, rows - begin + 1)
            fits = counts * tf.reduce_sum(widest, 1) <= self.positions  # true, then false
            count = tf.maximum(tf.math.count_nonzero(fits), tf.constant(1, tf.int64))
            cut = tf.concat([[begin, begin + count], widest[count - 1]], 0)
            return begin + count, tf.concat([cuts, cut[None]], 0)

        _, cuts = tf.while_loop(
            lambda begin, cuts: begin < rows,
            one_batch,
            (tf.constant(0, tf.int64), tf.zeros([0, 2 + lengths], tf.int64)),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None, 2 + lengths])),
        )
        return cuts[::-1]


REMAINDERS = {"separate": Separate, "merged": Merged}


def _cut(parts, cuts):
    """Returns the dataset of the batches `(parts, steps)` of rows that were cut."""
    return tf.data.Dataset.from_tensor_slices(cuts).map(
        lambda cut: (tuple(part[cut[0] : cut[1]] for part in parts), cut[2:])
    )
