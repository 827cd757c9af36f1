import threading

import keras
import pytest

from tfmoe.distribute.shards import Sharding, current_sharding, shard_bounds, sharded


@pytest.mark.parametrize(
    ("length", "replicas", "unit", "expected"),
    [
        (8, 1, 1, [(0, 8)]),
        (8, 2, 1, [(0, 4), (4, 8)]),
        (9, 4, 1, [(0, 3), (3, 5), (5, 7), (7, 9)]),  # the first has one more
        (9, 2, 1, [(0, 5), (5, 9)]),
        (3, 4, 1, [(0, 1), (1, 2), (2, 3), (3, 3)]),
        (12, 2, 4, [(0, 8), (8, 12)]),  # 3 groups of 4 experts: 2 and 1
        (8, 4, 4, [(0, 2), (2, 4), (4, 6), (6, 8)]),  # fewer units than replicas are divided
        (8, 2, 8, [(0, 4), (4, 8)]),
        (20, 4, 4, [(0, 8), (8, 12), (12, 16), (16, 20)]),
    ],
)
def test_bounds_by_hand(length, replicas, unit, expected):
    assert shard_bounds(length, replicas, unit) == expected


def test_the_unit_must_divide_the_length():
    with pytest.raises(ValueError, match="10 rows cannot be divided into units of 4"):
        shard_bounds(10, 2, unit=4)


def test_units_that_are_not_divisible():
    sharding = Sharding(unit=4, is_divisible=False)
    assert sharding.bounds(8, 2) == [(0, 4), (4, 8)]
    assert sharding.bounds(8, 3) is None


def test_nested_contexts():
    assert current_sharding() is None
    with sharded():
        assert current_sharding() == Sharding()
        with sharded(unit=4):
            assert current_sharding() == Sharding(unit=4)
        assert current_sharding() == Sharding()
    assert current_sharding() is None


def test_an_exception_ends_the_context():
    with pytest.raises(KeyError), sharded(unit=2):
        raise KeyError
    assert current_sharding() is None


def test_the_context_is_local_to_a_thread():
    seen = []
    with sharded():
        thread = threading.Thread(target=lambda: seen.append(current_sharding()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_no_effect_without_a_strategy():
    layer = keras.layers.Dense(3)
    with sharded():
        layer.build((None, 2))
    assert layer.kernel.value.shape == (2, 3)
    assert not hasattr(layer.kernel.value, "local_parts")
