import threading

import keras
import pytest

from tfmoe.distribute.shards import shard_bounds, sharded, sharding_unit


@pytest.mark.parametrize(
    ("length", "replicas", "unit", "expected"),
    [
        (8, 1, 1, [(0, 8)]),
        (8, 2, 1, [(0, 4), (4, 8)]),
        (
            9,
            4,
            1,
            [(0, 3), (3, 6), (6, 9), (9, 9)],
        ),  # 9/4 rounded up is 3: the last gets none
        (9, 2, 1, [(0, 5), (5, 9)]),
        (3, 4, 1, [(0, 1), (1, 2), (2, 3), (3, 3)]),
        (12, 2, 4, [(0, 8), (8, 12)]),  # 3 groups of 4 experts: 2 and 1
        (8, 4, 4, [(0, 4), (4, 8), (8, 8), (8, 8)]),
        (8, 2, 8, [(0, 8), (8, 8)]),
    ],
)
def test_bounds_by_hand(length, replicas, unit, expected):
    assert shard_bounds(length, replicas, unit) == expected


def test_the_unit_must_divide_the_length():
    with pytest.raises(ValueError, match="10 rows cannot be divided into units of 4"):
        shard_bounds(10, 2, unit=4)


def test_nested_contexts():
    assert sharding_unit() is None
    with sharded():
        assert sharding_unit() == 1
        with sharded(unit=4):
            assert sharding_unit() == 4
        assert sharding_unit() == 1
    assert sharding_unit() is None


def test_an_exception_ends_the_context():
    with pytest.raises(KeyError), sharded(unit=2):
        raise KeyError
    assert sharding_unit() is None


def test_the_context_is_local_to_a_thread():
    seen = []
    with sharded():
        thread = threading.Thread(target=lambda: seen.append(sharding_unit()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_no_effect_without_a_strategy():
    layer = keras.layers.Dense(3)
    with sharded():
        layer.build((None, 2))
    assert layer.kernel.value.shape == (2, 3)
    assert not hasattr(layer.kernel.value, "local_parts")
