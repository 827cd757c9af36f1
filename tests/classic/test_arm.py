"""The simulated arm."""

import numpy as np
import pytest

from tfmoe.classic import arm, relative_error, simulated_arm


def test_states():
    x, y = simulated_arm(2000, seed=3)
    assert x.shape == (2000, 12) and y.shape == (2000, 4)
    highest = np.repeat([np.pi / 2, 2, 3], 4)
    assert (np.abs(x) <= highest).all() and (np.abs(x).max(axis=0) > 0.99 * highest).all()
    np.testing.assert_array_equal(simulated_arm(2000, seed=3)[0], x)
    np.testing.assert_allclose(arm.joint_accelerations(*np.split(x, 3, axis=1)), y)


def test_by_hand():
    """A straight arm at rest: the accelerations a of the links solve
    `(0.25·m + 0.02·I) a = u`, with `m = [[4, 3, 2, 1], [3, 3, 2, 1], [2, 2, 2, 1], [1, 1, 1, 1]]`
    and `u = (0, 0, 0, 1)` for a torque of 1 at the last joint, `u_3 = -1`.
    """
    a = arm.joint_accelerations(np.full([1, 4], 0.0), np.zeros([1, 4]), np.array([[0, 0, 0, 1.0]]))
    mass = np.array([[4, 3, 2, 1], [3, 3, 2, 1], [2, 2, 2, 1], [1, 1, 1, 1]])
    np.testing.assert_allclose(
        (0.25 * mass + 0.02 * np.eye(4)) @ np.cumsum(a[0]), [0, 0, -1, 1], atol=1e-12
    )


def test_power_of_the_torques_is_the_change_of_energy():
    q, v, torque = np.split(simulated_arm(50)[0], 3, axis=1)
    a = arm.joint_accelerations(q, v, torque)

    def energy(seconds):
        theta = np.cumsum(q + seconds * v + seconds**2 / 2 * a, axis=1)
        speed = np.cumsum(v + seconds * a, axis=1)
        # Velocities of the masses at the ends of the links of 0.5 m.
        sides = [np.cumsum(0.5 * f(theta) * speed, axis=1) for f in (np.sin, np.cos)]
        return (sides[0] ** 2 + sides[1] ** 2 + 0.02 * speed**2).sum(axis=1) / 2

    change = (energy(1e-4) - energy(-1e-4)) / 2e-4
    np.testing.assert_allclose(change, (torque * v).sum(axis=1), atol=1e-4)


def test_relative_error_by_hand():
    targets = np.array([[0.0, 0.0], [2.0, 4.0]])  # variances 1 and 4
    predictions = np.array([[0.0, 2.0], [1.0, 4.0]])  # squared errors 1/2 and 2
    assert relative_error(targets, predictions) == 0.5
    assert relative_error(targets, [[1.0, 2.0]] * 2) == 1


def test_errors():
    with pytest.raises(ValueError, match="rows must be an integer of at least 1, got 0"):
        simulated_arm(0)
