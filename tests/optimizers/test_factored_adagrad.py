import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.layers import Experts
from tfmoe.optimizers import FactoredAdagrad, factoring


def run_steps(optimizer, value, gradients):
    """The values of the variable after each step, `[steps, …]`, in float64."""
    variable = keras.Variable(value, dtype="float64")
    values = []
    for gradient in gradients:
        optimizer.apply([tf.constant(gradient, "float64")], [variable])
        values.append(variable.numpy())
    return np.array(values)


@pytest.fixture(params=[False, True], ids=["at once", "in blocks"])
def blocks(request, monkeypatch):
    """Updates stacks at once, or one matrix at a time."""
    if request.param:
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": 1, "GPU": 1})


def test_two_steps_by_hand(blocks):
    # α = 1, ε is negligible, sums start at 1. The second expert has no gradient.
    gradient = np.array([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    optimizer = FactoredAdagrad(1.0, 1.0, epsilon=1e-30, factored="matrices")
    first, second = run_steps(optimizer, np.zeros([2, 2, 2]), [gradient, gradient])
    # g² = [1 4; 9 16]: rows 1 + 5/2, 1 + 25/2, columns 1 + 5, 1 + 10, mean 1 + 15/2.
    v = np.outer([7 / 2, 27 / 2], [6, 11]) / (17 / 2)
    np.testing.assert_allclose(first[0], -gradient[0] / np.sqrt(v), rtol=1e-14)
    # The same gradient again: rows 6, 26, columns 11, 21, mean 16.
    v = np.outer([6, 26], [11, 21]) / 16
    np.testing.assert_allclose(second[0] - first[0], -gradient[0] / np.sqrt(v), rtol=1e-14)
    np.testing.assert_array_equal(second[1], np.zeros([2, 2]))


def test_equals_adagrad_for_squared_gradients_of_rank_1(blocks):
    rng = np.random.default_rng(0)
    # All sums start at 0.1, so the factor that keeps its direction must be constant.
    factor = rng.uniform(0.1, 2, (5, 3, 4, 1))
    gradients = np.sqrt(factor) * rng.choice([-1, 1], (5, 3, 4, 6))
    start = rng.standard_normal((3, 4, 6))
    factored = run_steps(FactoredAdagrad(0.1, factored="matrices"), start, gradients)
    adagrad = run_steps(keras.optimizers.Adagrad(0.1), start, gradients)
    np.testing.assert_allclose(factored, adagrad, rtol=1e-13, atol=1e-14)


def test_ordinary_variables_equal_keras_adagrad():
    gradients = np.random.default_rng(0).standard_normal((4, 3, 5))
    factored = run_steps(FactoredAdagrad(0.1, 0.2, epsilon=1e-3), np.ones([3, 5]), gradients)
    adagrad = run_steps(
        keras.optimizers.Adagrad(0.1, 0.2, epsilon=1e-3), np.ones([3, 5]), gradients
    )
    np.testing.assert_array_equal(factored, adagrad)


def test_slots():
    layer = Experts(4, 32, use_bias=True)
    layer.build((None, 16))
    optimizer = FactoredAdagrad()
    optimizer.build(layer.trainable_variables)
    shapes = sorted(tuple(variable.shape) for variable in optimizer.variables)
    # Step, learning rate, full sums for the two biases, two vectors for each matrix.
    assert shapes == sorted([(), (), (4, 16), (4, 32), (4, 16), (4, 32), (4, 32), (4, 16)])
    assert all(np.all(slot == np.float32(0.1)) for slot in optimizer._factored_slots[0])


def test_config_round_trip_and_state():
    optimizer = FactoredAdagrad(0.5, 0.25, epsilon=1e-3, factored="matrices", clipnorm=1.0)
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert restored.get_config() == optimizer.get_config()
    gradients = np.random.default_rng(0).standard_normal((4, 2, 3, 4))
    whole = run_steps(optimizer, np.zeros([2, 3, 4]), gradients)
    first = FactoredAdagrad.from_config(optimizer.get_config())
    run_steps(first, np.zeros([2, 3, 4]), gradients[:2])
    store = {}
    first.save_own_variables(store)
    variable = keras.Variable(whole[1], dtype="float64")
    restored.build([variable])
    restored.load_own_variables(store)
    for gradient in gradients[2:]:
        restored.apply([tf.constant(gradient)], [variable])
    np.testing.assert_array_equal(variable, whole[3])


def test_wrong_arguments():
    with pytest.raises(ValueError, match="did you mean 'matrices'"):
        FactoredAdagrad(factored="matrix")
    with pytest.raises(ValueError, match="initial_accumulator_value must be at least 0, got -1"):
        FactoredAdagrad(initial_accumulator_value=-1.0)
