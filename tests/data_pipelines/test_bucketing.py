import collections

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfmoe.data_pipelines.bucketing import Bucketing, bucket_boundaries


def test_bucket_boundaries():
    assert bucket_boundaries(1) == [1]
    assert bucket_boundaries(8) == [8]
    assert bucket_boundaries(40) == [8, 11, 14, 18, 23, 29, 37, 40]


def dataset(lengths, bucketing, chunk_size):
    """Rows as a dataset of chunks: row i is its number i + 1, as often as it is long on each side.

    Args:
        lengths: list of tuples.
    """
    parts = []
    for side, boundaries in enumerate(bucketing.boundaries):
        rows = np.zeros((len(lengths), boundaries[-1]), np.int32)
        for index, row in enumerate(lengths):
            rows[index, : row[side]] = index + 1
        parts.append(rows)
    cells = bucketing.cells_of(np.array(lengths))
    return tf.data.Dataset.from_tensor_slices((*parts, cells)).batch(chunk_size)


def read(batches):
    """`[(lists of rows of each part, steps), …]` of a dataset, cut to their steps."""
    return [
        ([part[:, :size].tolist() for part, size in zip(parts, steps, strict=True)], steps.tolist())
        for parts, steps in batches.as_numpy_iterator()
    ]


# Steps 2 and 4; six positions: three rows of 2 steps, one of 4.
LENGTHS = [(1,), (4,), (2,), (3,), (1,), (2,)]
FULL = [[1, 0], [3, 3], [5, 0]]
LONG = [[[2, 2, 2, 2]], [[4, 4, 4, 0]]]
REST = [[6, 6]]


@pytest.mark.parametrize("remainder", ["separate", "merged"])
def test_by_hand(remainder):
    bucketing = Bucketing([[2, 4]], 6, remainder)
    assert (bucketing.steps.tolist(), bucketing.sizes.tolist()) == ([[2], [4]], [3, 1])
    found = read(bucketing.batch(dataset(LENGTHS, bucketing, 99)))
    assert found == [([FULL], [2]), *(([rows], [4]) for rows in LONG), ([REST], [2])]
    # Two rows a chunk: the third row of 2 steps comes in the third chunk.
    found = read(bucketing.batch(dataset(LENGTHS, bucketing, 2)))
    assert [rows for (rows,), _ in found] == [*LONG, FULL, REST]


def test_separate_rest_by_hand():
    """Twelve positions would hold all three rows, but two cells are not joined."""
    bucketing = Bucketing([[2, 3]], 12, "separate")
    counts = bucketing.count_rows({(1,): 1, (2,): 1, (3,): 1})
    assert (counts.tolist(), bucketing.count_batches(counts)) == ([2, 1], 2)
    found = read(bucketing.batch(dataset([(3,), (1,), (2,)], bucketing, 9)))
    assert found == [([[[2, 0], [3, 3]]], [2]), ([[[1, 1, 1]]], [3])]


def test_merged_rest_by_hand():
    """Cells of (2, 2), (2, 4), (4, 2) and (4, 4), 24 positions: 6, 4, 4 and 3 rows are full. The
    rest of 2, 1 and 1 rows of the first three: (4, 4) holds three of them, and one is left.
    """
    bucketing = Bucketing([[2, 4], [2, 4]], 24, "merged")
    assert bucketing.steps.tolist() == [[2, 2], [2, 4], [4, 2], [4, 4]]
    assert bucketing.sizes.tolist() == [6, 4, 4, 3]
    lengths = [(1, 3), (1, 1), (4, 1), (2, 2)]
    counts = bucketing.count_rows(collections.Counter(lengths))
    assert counts.tolist() == [2, 1, 1, 0]
    assert (bucketing.count_left(counts), bucketing.count_batches(counts)) == (4, 2)
    # The longest first.
    first, second = read(bucketing.batch(dataset(lengths, bucketing, 2), rows_left=4))
    assert first == ([[[3, 3, 3, 3]], [[3, 0]]], [4, 2])
    assert second == (
        [[[2, 0], [4, 4], [1, 0]], [[2, 0, 0, 0], [4, 4, 0, 0], [1, 1, 1, 0]]],
        [2, 4],
    )


def test_other_rows_than_counted():
    bucketing = Bucketing([[2, 4]], 6, "merged")
    with pytest.raises(tf.errors.InvalidArgumentError, match="are not those of these files"):
        read(bucketing.batch(dataset(LENGTHS, bucketing, 4), rows_left=2))


def test_remainder_is_checked():
    with pytest.raises(ValueError, match="remainder must be separate or merged, got 'dropped'"):
        Bucketing([[2]], 6, "dropped")


def rows_of(sides):
    side = st.integers(1, 12)
    return st.lists(st.tuples(*[side] * sides), min_size=1, max_size=60)


CASES = st.one_of(rows_of(1), rows_of(2))
REMAINDERS = st.sampled_from(["separate", "merged"])


def bucketing_of(lengths, positions, remainder):
    longest = map(int, np.array(lengths).max(0))
    return Bucketing([*map(bucket_boundaries, longest)], positions, remainder)


@settings(max_examples=12, deadline=None)
@given(CASES, st.integers(1, 80), REMAINDERS, st.integers(1, 20))
def test_every_row_is_in_one_batch(lengths, positions, remainder, chunk_size):
    bucketing = bucketing_of(lengths, positions, remainder)
    counts = bucketing.count_rows(collections.Counter(lengths))
    chunks = dataset(lengths, bucketing, chunk_size)
    found = read(bucketing.batch(chunks, bucketing.count_left(counts)))
    assert len(found) == bucketing.count_batches(counts)
    seen = []
    for parts, steps in found:
        assert steps in bucketing.steps.tolist()
        assert len(parts[0]) == 1 or len(parts[0]) * sum(steps) <= positions
        for row in zip(*parts, strict=True):
            number = row[0][0]
            seen.append(number)
            # All of the row is inside the steps of its batch.
            assert tuple(side.count(number) for side in row) == lengths[number - 1]
    assert sorted(seen) == list(range(1, len(lengths) + 1))
