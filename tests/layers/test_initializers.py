import keras
import numpy as np
import pytest

from tfmoe.layers.initializers import independent, per_expert


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "truncated_normal", "untruncated_normal"])
def test_standard_deviation_is_that_of_one_matrix(mode, distribution):
    base = keras.initializers.VarianceScaling(2.0, mode, distribution, seed=1)
    stack = keras.ops.convert_to_numpy(per_expert(base, 5)((5, 60, 140)))
    fan = {"fan_in": 60, "fan_out": 140, "fan_avg": 100}[mode]
    for matrix in stack:
        assert matrix.std() == pytest.approx(np.sqrt(2.0 / fan), rel=0.03)
    assert np.abs(np.corrcoef(stack.reshape(5, -1)) - np.eye(5)).max() < 0.05


def test_initializers_that_do_not_scale_are_not_changed():
    base = keras.initializers.RandomNormal(stddev=0.2, seed=3)
    converted = per_expert(base, 5)
    assert isinstance(converted, keras.initializers.RandomNormal)
    np.testing.assert_array_equal(converted((5, 2, 3)), base((5, 2, 3)))


def test_seed_is_kept():
    stacks = [per_expert(keras.initializers.HeNormal(seed=7), 3)((3, 4, 5)) for _ in range(2)]
    np.testing.assert_array_equal(*stacks)


@pytest.mark.parametrize("name", ["orthogonal", "identity"])
def test_initializers_that_would_mix_experts_raise_an_error(name):
    with pytest.raises(ValueError, match=r"kernel_initializer must draw .*, got"):
        per_expert(name, 3)


def scaled_by_fan_in(shape, dtype=None):
    return keras.random.normal(shape, dtype=dtype) / shape[0] ** 0.5


@keras.saving.register_keras_serializable("test")
class ScaledByFanIn(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return scaled_by_fan_in(shape, dtype)


@pytest.mark.parametrize("base", [scaled_by_fan_in, ScaledByFanIn(), ScaledByFanIn])
def test_functions_get_the_shape_of_one_expert(base):
    initializer = per_expert(base, 5)
    stacks = [keras.ops.convert_to_numpy(initializer((5, 60, 140), "float32")) for _ in range(2)]
    stacks.append(keras.ops.convert_to_numpy(initializer.clone()((5, 60, 140), "float32")))
    matrices = np.concatenate(stacks).reshape(15, -1)
    np.testing.assert_allclose(matrices.std(axis=1), 60**-0.5, rtol=0.03)
    assert np.abs(np.corrcoef(matrices) - np.eye(15)).max() < 0.05


def test_dtype_of_a_function():
    initializer = per_expert(lambda shape, dtype=None: np.ones(shape, dtype), 3)
    assert keras.backend.standardize_dtype(initializer((3, 2, 4), "float64").dtype) == "float64"
    assert initializer((3, 2, 4), "float64").shape == (3, 2, 4)


def test_array_initializes_every_expert():
    values = np.arange(6.0, dtype="float32").reshape(2, 3)
    np.testing.assert_array_equal(per_expert(values, 4)((4, 2, 3), "float32"), [values] * 4)


@pytest.mark.parametrize(
    "make", [keras.initializers.GlorotUniform, keras.initializers.RandomNormal]
)
@pytest.mark.parametrize(("seed", "equal"), [(None, False), (7, True), ("generator", False)])
def test_draws_are_independent_unless_seeded(make, seed, equal):
    base = make(seed=keras.random.SeedGenerator(1) if seed == "generator" else seed)
    for draws in (
        [independent(base)((4, 5)) for _ in range(2)],
        [per_expert(base, 3)((3, 4, 5)) for _ in range(2)],
    ):
        assert np.array_equal(*draws) == equal


def test_independent_does_not_change_a_function():
    assert independent(scaled_by_fan_in) is scaled_by_fan_in
