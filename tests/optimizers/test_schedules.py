import keras
import numpy as np
import pytest

from tfmoe.optimizers import SCHEDULES, WarmupInverseSqrt


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.5),  # 2 · 1/4
        (1, 1.0),
        (3, 2.0),  # the fourth step has the peak
        (4, 2 * np.sqrt(4 / 5)),
        (15, 1.0),  # the sixteenth: 2 · √(4/16)
        (399, 0.2),  # 2 · √(4/400)
    ],
)
def test_language_model_schedule(step, rate):
    assert float(WarmupInverseSqrt(2.0, 4)(step)) == pytest.approx(rate, rel=1e-6)


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 0.5), (1, 1.0), (2, 1.0), (7, 1.0), (8, np.sqrt(8 / 9)), (31, 0.5)],
)
def test_translation_schedule_with_a_plateau(step, rate):
    # Two warm-up steps, six constant steps, then √(8 / step).
    assert float(WarmupInverseSqrt(1.0, 2, 6)(step)) == pytest.approx(rate, rel=1e-6)


def test_the_papers_schedule_is_continuous():
    schedule = WarmupInverseSqrt(1e-3, 2000, 8000)
    rates = np.array(schedule(np.arange(30_000)))
    assert rates.max() == pytest.approx(1e-3)
    assert np.all(np.diff(rates[:2000]) > 0)
    np.testing.assert_allclose(rates[1999:10_000], 1e-3, rtol=1e-6)
    assert np.all(np.diff(rates[10_000:]) < 0)
    assert np.abs(np.diff(rates)).max() < 1e-3 / 1999


def test_schedule_in_an_optimizer():
    optimizer = keras.optimizers.Adam(WarmupInverseSqrt(1.0, 4, 2))
    restored = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert restored._learning_rate.get_config() == WarmupInverseSqrt(1.0, 4, 2).get_config()
    variable = keras.Variable([0.0])
    optimizer = keras.optimizers.SGD(WarmupInverseSqrt(2.0, 4))
    values = []
    for _ in range(2):
        optimizer.apply([keras.ops.ones([1])], [variable])
        values.append(float(variable[0]))
    assert values == pytest.approx([-0.5, -1.5])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0,), "peak must be a number above 0, got 0.0"),
        ((-1.0,), "peak must be a number above 0, got -1.0"),
        ((float("nan"),), "peak must be a number above 0, got nan"),
        ((1.0, 0), "warmup_steps must be an integer of at least 1, got 0"),
        ((1.0, 10, -1), "constant_steps must be an integer of at least 0, got -1"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        WarmupInverseSqrt(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0.0, 3), "peak must be a number above 0, got 0.0"),
        ((1.0, 0), "steps must be an integer of at least 1, got 0"),
        ((1.0, 3, -1), "warmup_steps must be an integer of at least 0, got -1"),
        ((1.0, 3, 1, 1.0), "final_fraction must be a number of at least 0 and below 1, got 1.0"),
    ],
)
def test_wrong_arguments_of_cosine_decay(arguments, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        SCHEDULES["cosine_decay"](*arguments)


def test_schedules_by_name():
    assert SCHEDULES["constant"](0.5) == 0.5
    # Two warm-up steps to 0.5, then half a cosine over four steps: 0.25 after two of them.
    cosine = SCHEDULES["cosine_decay"](0.5, steps=6, warmup_steps=2)
    np.testing.assert_allclose([cosine(step) for step in (0, 1, 2, 4, 6)], [0, 0.25, 0.5, 0.25, 0])
    assert float(SCHEDULES["warmup_inverse_sqrt"](0.5, warmup_steps=2)(1)) == 0.5
