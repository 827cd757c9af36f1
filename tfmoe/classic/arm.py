"""A simulated robot arm: the task of Jordan and Jacobs 1994.

Axes: T rows, J = 4 joints, N outputs.
"""

import numpy as np

from tfmoe.ops.arguments import positive

JOINTS = 4
MASS, LENGTH = 1.0, 0.5  # of each link: kg, m
ADDED_INERTIA = 0.02  # on the diagonal of the inertia matrix: kg m²
MAX_ANGLE, MAX_VELOCITY, MAX_TORQUE = np.pi / 2, 2.0, 3.0  # rad, rad/s, N m


def simulated_arm(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Draws random states of a planar arm with four joints, and computes its accelerations.

    Args:
        rows: T.
        seed: seed of the random states.

    Returns:
        `x`, `[T, 12]` float64: angles (within ±π/2 rad, relative to the previous link), velocities
        (within ±2 rad/s) and torques (within ±3 N m) of the four joints, uniform and independent.
        `y`, `[T, 4]` float64: the accelerations of the joints, in rad/s².

    Raises:
        ValueError: `rows` is not an integer of at least 1.

    Source: the task of Jordan and Jacobs, "Hierarchical mixtures of experts and the EM algorithm"
    (1994). Paper: the arm, its masses and the ranges are our own.
    """
    rng = np.random.default_rng(seed)
    highest = np.repeat([MAX_ANGLE, MAX_VELOCITY, MAX_TORQUE], JOINTS)
    x = rng.uniform(-highest, highest, [positive("rows", rows), 3 * JOINTS])
    return x, joint_accelerations(*np.split(x, 3, axis=1))


def joint_accelerations(angles, velocities, torques):
    """Solves the equations of motion. There is no gravity; a link has its mass at its end.

    In absolute angles θ: `M(θ)·θ̈ + c(θ, θ̇) = u`, where `m_ij` is the mass of the links from
    `max(i, j)` on, and

        M_ij = m_ij·l²·cos(θ_i − θ_j)
        c_i = Σ_j m_ij·l²·sin(θ_i − θ_j)·θ̇_j²
        u_i = torque_i − torque_(i+1)

    Args:
        angles: `[T, J]`, relative to the previous link.
        velocities: `[T, J]`, relative to the previous link.
        torques: `[T, J]`.

    Returns:
        `[T, J]`, relative to the previous link.
    """
    theta, speed = np.cumsum(angles, axis=1), np.cumsum(velocities, axis=1)
    joint = np.arange(JOINTS)
    inertia = MASS * LENGTH**2 * (JOINTS - np.maximum(joint[:, None], joint))
    difference = theta[:, :, None] - theta[:, None]
    matrix = inertia * np.cos(difference) + ADDED_INERTIA * np.eye(JOINTS)
    coriolis = np.einsum("tij,tj->ti", inertia * np.sin(difference), speed**2)
    forces = torques - np.pad(torques[:, 1:], [(0, 0), (0, 1)])
    absolute = np.linalg.solve(matrix, (forces - coriolis)[..., None])[..., 0]
    return np.diff(absolute, axis=1, prepend=0)


def relative_error(targets: np.ndarray, predictions: np.ndarray) -> float:
    """The squared error over that of the mean of the targets, averaged over the outputs.

    Args:
        targets: `[T, N]`.
        predictions: `[T, N]`.

    Returns:
        0 for perfect predictions, 1 for those of the mean.
    """
    squared = np.mean((np.asarray(targets) - predictions) ** 2, axis=0)
    return float(np.mean(squared / np.var(targets, axis=0)))
