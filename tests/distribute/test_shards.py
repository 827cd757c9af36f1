import threading

import keras
import pytest

from tfmoe.distribute.shards import shard_bounds, sharded, sharding_unit


@pytest.mark.parametrize(
    ("length", "replicas", "together", "expected"),
    [
        (8, 1, 1, [(0, 8)]),
        (8, 2, 1, [(0, 4), (4, 8)]),
        (9, 4, 1, [(0, 3), (3, 6), (6, 9), (9, 9)]),  # 3 = 9/4 rounded up: none left for the last
        (9, 2, 1, [(0, 5), (5, 9)]),
        (3, 4, 1, [(0, 1), (1, 2), (2, 3), (3, 3)]),
        (12, 2, 4, [(0, 8), (8, 12)]),  # 3 groups of 4 experts: 2 and 1
        (8, 4, 4, [(0, 4), (4, 8), (8, 8), (8, 8)]),
        (8, 2, 8, [(0, 8), (8, 8)]),
    ],
)
def test_bounds_by_hand(length, replicas, together, expected):
    assert shard_bounds(length, replicas, together) == expected


def test_units_must_divide_the_rows():
    with pytest.raises(ValueError, match="10 rows cannot be divided into units of 4"):
        shard_bounds(10, 2, together=4)


def test_scopes_nest_and_end():
    assert sharding_unit() is None
    with sharded():
        assert sharding_unit() == 1
        with sharded(together=4):
            assert sharding_unit() == 4
        assert sharding_unit() == 1
    assert sharding_unit() is None


def test_scope_ends_with_an_exception():
    with pytest.raises(KeyError), sharded(together=2):
        raise KeyError
    assert sharding_unit() is None


def test_scope_is_of_one_thread():
    seen = []
    with sharded():
        thread = threading.Thread(target=lambda: seen.append(sharding_unit()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_without_a_strategy_it_has_no_effect():
    layer = keras.layers.Dense(3)
    with sharded():
        layer.build((None, 2))
    assert layer.kernel.value.shape == (2, 3)
    assert not hasattr(layer.kernel.value, "local_parts")
