import keras
import numpy as np
import pytest

from tfmoe.layers.initializers import per_expert


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "truncated_normal", "untruncated_normal"])
def test_standard_deviation_is_that_of_one_matrix(mode, distribution):
    base = keras.initializers.VarianceScaling(2.0, mode, distribution, seed=1)
    stack = keras.ops.convert_to_numpy(per_expert(base, 5)((5, 60, 140)))
    fan = {"fan_in": 60, "fan_out": 140, "fan_avg": 100}[mode]
    for matrix in stack:
        assert matrix.std() == pytest.approx(np.sqrt(2.0 / fan), rel=0.03)
    assert np.abs(np.corrcoef(stack.reshape(5, -1)) - np.eye(5)).max() < 0.05


def test_initializers_that_do_not_scale_stay_as_they_are():
    base = keras.initializers.RandomNormal(stddev=0.2)
    assert per_expert(base, 5) is base


def test_seed_is_kept():
    stacks = [per_expert(keras.initializers.HeNormal(seed=7), 3)((3, 4, 5)) for _ in range(2)]
    np.testing.assert_array_equal(*stacks)


@pytest.mark.parametrize("name", ["orthogonal", "identity"])
def test_initializers_that_would_mix_experts(name):
    with pytest.raises(ValueError, match=r"kernel_initializer must draw .*, got"):
        per_expert(name, 3)
