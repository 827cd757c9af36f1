import keras
import numpy as np
import pytest

from tfmoe.layers.initializers import GateAndUp, independent, per_expert


@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg"])
@pytest.mark.parametrize("distribution", ["uniform", "truncated_normal", "untruncated_normal"])
def test_standard_deviation_is_that_of_one_matrix(mode, distribution):
    base = keras.initializers.VarianceScaling(2.0, mode, distribution, seed=1)
    stack = keras.ops.convert_to_numpy(per_expert(base)((5, 60, 140)))
    fan = {"fan_in": 60, "fan_out": 140, "fan_avg": 100}[mode]
    for matrix in stack:
        assert matrix.std() == pytest.approx(np.sqrt(2.0 / fan), rel=0.03)
    assert np.abs(np.corrcoef(stack.reshape(5, -1)) - np.eye(5)).max() < 0.05


def test_standard_deviation_of_an_initializer_that_does_not_scale():
    stack = per_expert(keras.initializers.RandomNormal(stddev=0.2, seed=3))((5, 60, 140)).numpy()
    np.testing.assert_allclose(stack.std(axis=(1, 2)), 0.2, rtol=0.03)
    assert np.abs(np.corrcoef(stack.reshape(5, -1)) - np.eye(5)).max() < 0.05


@keras.saving.register_keras_serializable("test")
class NormalByNumPy(keras.initializers.RandomNormal):
    """A subclass that does not draw with Keras' seeds."""

    def __call__(self, shape, dtype=None):
        return np.random.default_rng(self.seed).standard_normal(shape)


BASES = {
    "subclass": NormalByNumPy(seed=7),
    "glorot": keras.initializers.GlorotUniform(seed=7),
    "orthogonal": keras.initializers.Orthogonal(seed=7),
    "truncated": keras.initializers.TruncatedNormal(seed=7),
    "ones": keras.initializers.Ones(),
    "gated ones": GateAndUp(keras.initializers.Ones()),
    "array": np.arange(12.0, dtype="float32").reshape(3, 4),
    "integer seed": None,
    "no seed": None,
}


@keras.saving.register_keras_serializable("test")
class SeededByNumPy(keras.initializers.Initializer):
    """Cannot take a tensor as its seed."""

    def __init__(self, seed):
        self.seed = seed

    def __call__(self, shape, dtype=None):
        return np.random.default_rng(self.seed).standard_normal(shape).astype(dtype)

    def get_config(self):
        return {"seed": self.seed}


@pytest.mark.parametrize("name", BASES)
@pytest.mark.parametrize("num_experts", [5, 70])  # 70 are drawn in a loop
def test_draws_of_an_expert_do_not_depend_on_the_devices(name, num_experts):
    def initializer():
        if name == "integer seed":
            return per_expert(SeededByNumPy(7))
        if name == "no seed":  # draws in the order of the experts
            generator = np.random.default_rng(7)
            return per_expert(lambda shape, dtype=None: generator.standard_normal(shape))
        return per_expert(BASES[name])

    shape = (num_experts, 3, 4)
    whole = initializer()(shape, "float32").numpy()
    bounds = [(0, 2), (2, 2), (2, num_experts)]
    parts = [part.numpy() for part in initializer().draw_rows(shape, bounds, "float32")]
    assert [len(part) for part in parts] == [2, 0, num_experts - 2]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    (second,) = initializer().draw_rows(shape, [(1, 2)], "float32")  # as another process draws it
    np.testing.assert_array_equal(second, whole[1:2])
    if name not in ("ones", "gated ones", "array"):
        assert len(np.unique(whole[:, 0, 0])) == num_experts


def test_experts_of_an_orthogonal_initializer_are_orthogonal():
    for matrix in per_expert("orthogonal")((3, 4, 4)).numpy():
        np.testing.assert_allclose(matrix @ matrix.T, np.eye(4), atol=1e-6)


@pytest.mark.parametrize("num_experts", [4, 70])
def test_halves_of_a_gated_kernel_are_drawn_like_separate_kernels(num_experts):
    base = keras.initializers.HeNormal(seed=1)
    stack = per_expert(base, gated=True)((num_experts, 60, 280)).numpy()
    gate, up = np.split(stack, 2, axis=-1)
    for half in (gate, up):
        assert half.std() == pytest.approx((2 / 60) ** 0.5, rel=0.03)
    assert np.abs(np.corrcoef(gate.ravel(), up.ravel())[0, 1]) < 0.05
    dense = GateAndUp(base)((60, 280)).numpy()
    assert dense.shape == (60, 280)


def test_seed_is_kept():
    stacks = [per_expert(keras.initializers.HeNormal(seed=7))((3, 4, 5)) for _ in range(2)]
    np.testing.assert_array_equal(*stacks)


def scaled_by_fan_in(shape, dtype=None):
    return keras.random.normal(shape, dtype=dtype) / shape[0] ** 0.5


@keras.saving.register_keras_serializable("test")
class ScaledByFanIn(keras.initializers.Initializer):
    def __call__(self, shape, dtype=None):
        return scaled_by_fan_in(shape, dtype)


@pytest.mark.parametrize("base", [scaled_by_fan_in, ScaledByFanIn(), ScaledByFanIn])
def test_functions_get_the_shape_of_one_expert(base):
    initializer = per_expert(base)
    stacks = [keras.ops.convert_to_numpy(initializer((5, 60, 140), "float32")) for _ in range(2)]
    stacks.append(keras.ops.convert_to_numpy(initializer.clone()((5, 60, 140), "float32")))
    matrices = np.concatenate(stacks).reshape(15, -1)
    np.testing.assert_allclose(matrices.std(axis=1), 60**-0.5, rtol=0.03)
    assert np.abs(np.corrcoef(matrices) - np.eye(15)).max() < 0.05


def test_dtype_of_a_function():
    initializer = per_expert(lambda shape, dtype=None: np.ones(shape, dtype))
    assert keras.backend.standardize_dtype(initializer((3, 2, 4), "float64").dtype) == "float64"
    assert initializer((3, 2, 4), "float64").shape == (3, 2, 4)


def test_array_initializes_every_expert():
    values = np.arange(6.0, dtype="float32").reshape(2, 3)
    np.testing.assert_array_equal(per_expert(values)((4, 2, 3), "float32"), [values] * 4)


@pytest.mark.parametrize(
    "make", [keras.initializers.GlorotUniform, keras.initializers.RandomNormal]
)
@pytest.mark.parametrize(("seed", "equal"), [(None, False), (7, True), ("generator", False)])
def test_draws_are_independent_unless_seeded(make, seed, equal):
    base = make(seed=keras.random.SeedGenerator(1) if seed == "generator" else seed)
    for draws in (
        [independent(base)((4, 5)) for _ in range(2)],
        [per_expert(base)((3, 4, 5)) for _ in range(2)],
    ):
        assert np.array_equal(*draws) == equal


def test_independent_does_not_change_a_function():
    assert independent(scaled_by_fan_in) is scaled_by_fan_in
