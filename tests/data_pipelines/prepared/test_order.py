"""Permutations and the order of training, without text."""

import collections

import numpy as np
import pytest

from tfmoe.data_pipelines.bucketing import Bucketing, bucket_boundaries
from tfmoe.data_pipelines.prepared.order import Order
from tfmoe.data_pipelines.prepared.permutations import hashed, permuted


@pytest.mark.parametrize("size", [1, 2, 3, 5, 64, 65, 1000, 4097])
def test_a_permutation_has_every_item_once(size):
    for key in range(3):
        items = permuted(np.arange(size), size, hashed(key))
        assert sorted(items.tolist()) == list(range(size))


def test_items_are_computed_one_by_one():
    """Of several permutations at the same time, too."""
    whole = permuted(np.arange(100), 100, hashed(5))
    other = permuted(np.arange(7), 7, hashed(6))
    found = permuted([3, 2, 99], [100, 7, 100], hashed([5, 6, 5]))
    assert found.tolist() == [whole[3], other[2], whole[99]]
    assert (permuted([0, 2**40 - 1], 2**40, hashed(1)) < 2**40).all()


@pytest.mark.parametrize("size", [3, 4, 40])
def test_permutations_are_random(size):
    """χ² of where the first item goes, and of how far the second is behind it."""
    keys = hashed(np.arange(8000), 7)
    first, second = (permuted(np.full(8000, index), size, keys) for index in range(2))
    for values, count in ((first, size), ((second - first) % size - 1, size - 1)):
        found = np.bincount(values, minlength=count)
        expected = len(keys) / count
        assert np.sum((found - expected) ** 2 / expected) < 5 * count


def test_neighbours_are_not_near_each_other():
    items = permuted(np.arange(20_000), 10**7, hashed(3))
    assert abs(np.corrcoef(items[:-1], items[1:])[0, 1]) < 0.03
    assert abs(np.corrcoef(items, np.arange(20_000))[0, 1]) < 0.03


def order_of(counts, weights=None, positions=60, seed=0, sides=1, remainder="separate"):
    """An order of cells of `bucket_boundaries(14)`: 8, 11 and 14 steps, for each side."""
    bucketing = Bucketing([bucket_boundaries(14)] * sides, positions, remainder)
    return Order(np.array(counts), weights or [1.0] * len(counts), bucketing, seed), bucketing


def read(order, begin, end):
    return [order.rows_of(batch) for batch in range(begin, end)]


@pytest.mark.parametrize("remainder", ["separate", "merged"])
def test_a_pass_has_every_row_once(remainder):
    """Full batches of 8, 11 and 14 steps have 7, 5 and 4 rows."""
    order, bucketing = order_of([[100, 31, 2]], remainder=remainder)
    assert order.batches == bucketing.count_batches(np.array([100, 31, 2]))
    passes = [read(order, begin, begin + order.batches) for begin in (0, order.batches)]
    for batches in passes:
        rows = np.concatenate([batch.rows for batch in batches])
        assert sorted(rows.tolist()) == list(range(133))
        for batch in batches:
            (steps,) = batch.steps
            assert len(batch.rows) <= 60 // steps
            # Rows 0 to 99 are of cell 0, to 130 of cell 1. A merged batch is as wide as its widest.
            cells = np.searchsorted([100, 131], batch.rows, "right")
            assert bucketing.steps[cells.max(), 0] == steps
            assert remainder == "merged" or len(set(cells)) == 1
    first, second = ([batch.rows.tolist() for batch in batches] for batches in passes)
    assert first != second
    other = order_of([[100, 31, 2]], remainder=remainder, seed=1)[0]
    assert other.rows_of(0).rows.tolist() not in first + second
    again = order_of([[100, 31, 2]], remainder=remainder)[0]
    assert again.rows_of(order.batches + 3).rows.tolist() == second[3]


def test_replicas_share_the_rows_of_a_batch():
    order, _ = order_of([[100, 31, 2]])
    for batch in range(order.batches):
        whole = order.rows_of(batch)
        for replicas in (2, 3, 9):
            parts = [order.rows_of(batch, replica, replicas) for replica in range(replicas)]
            assert np.concatenate([part.rows for part in parts]).tolist() == whole.rows.tolist()
            bounds = [len(whole.rows) * replica // replicas for replica in range(replicas + 1)]
            assert [len(part.rows) for part in parts] == np.diff(bounds).tolist()
            assert all(part.steps.tolist() == whole.steps.tolist() for part in parts)


def test_texts_of_equal_weight_are_mixed():
    order, _ = order_of([[600, 0, 20], [300, 10, 0]], weights=[2.0, 2.0], positions=400)
    batches = read(order, 0, order.batches)
    rows = np.concatenate([batch.rows for batch in batches])
    assert sorted(rows.tolist()) == list(range(930))
    for batch in batches:
        assert (batch.texts == (batch.rows >= 620)).all()
        if len(batch.rows) == 50:
            assert 4 <= batch.texts.sum() <= 29  # about a third of 50


def test_weights():
    """450 rows of weight 1, 150 of weight 6: two thirds of the draws are of the second text."""
    counts = np.array([[300, 150, 0], [90, 59, 1]])
    order, bucketing = order_of(counts, weights=[1.0, 6.0], positions=100)
    batches = read(order, 0, 12 * order.batches)
    texts = np.concatenate([batch.texts for batch in batches])
    assert texts.mean() == pytest.approx(2 / 3, abs=0.01)
    seen = collections.Counter(np.concatenate([batch.rows for batch in batches]).tolist())
    assert set(seen) == set(range(600))
    # 12 passes of 600 rows: 200 of 450 and 400 of 150 in each, 5.3 and 32 times a row.
    for rows, mean in ((range(450), 12 * 200 / 450), (range(450, 599), 12 * 400 / 150)):
        times = [seen[row] for row in rows]
        assert min(times) >= mean - 2.5 and max(times) <= mean + 2.5
    for batch in batches[:50]:
        cells = [
            int(np.searchsorted(np.cumsum(counts[text]), row - 450 * text, "right"))
            for text, row in zip(batch.texts.tolist(), batch.rows.tolist(), strict=True)
        ]
        assert set(bucketing.steps[cells].ravel().tolist()) == set(batch.steps.tolist())


def test_a_late_batch_takes_no_longer():
    order, _ = order_of([[10**9, 10**8, 10**7]])
    assert len(order.rows_of(10**12).rows) in (7, 5, 4)
