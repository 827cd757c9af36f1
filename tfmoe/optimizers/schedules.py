"""Learning-rate schedules, by the names that configs give them.

Each takes the highest learning rate first, which it calls `peak`; its other arguments are the keys
of a config.
"""

import keras
from keras import ops

from tfmoe.ops.arguments import fraction


@keras.saving.register_keras_serializable("tfmoe")
class WarmupInverseSqrt(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly, stays, then falls as 1/√step (App. C: no plateau, 1000 steps of warm-up; App.
    E: 2000, 8000).

    Args:
        peak: the highest learning rate.
        warmup_steps: W, steps of the rise; step W - 1, the W-th, has the peak rate.
        constant_steps: steps at the peak after it.

    Raises:
        ValueError: for arguments out of range.
    """

    def __init__(self, peak, warmup_steps=1000, constant_steps=0):
        check_peak(peak)
        check_steps("warmup_steps", warmup_steps, least=1)
        check_steps("constant_steps", constant_steps)
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.constant_steps = constant_steps

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1
        plateau_end = float(self.warmup_steps + self.constant_steps)
        rise = step / self.warmup_steps
        fall = ops.sqrt(plateau_end / ops.maximum(step, plateau_end))
        return self.peak * ops.minimum(ops.minimum(rise, 1.0), fall)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "constant_steps": self.constant_steps,
        }


def cosine_decay(peak, steps: int, warmup_steps=0, final_fraction=0.0):
    """Rises linearly, then falls along half a cosine, then stays. Paper: it has no such schedule;
    this one is better where the number of steps is small and known beforehand.

    Args:
        peak: the highest learning rate.
        steps: of the rise and the fall together.
        warmup_steps: steps of the rise.
        final_fraction: of the highest rate, at the end.

    Returns:
        `keras.optimizers.schedules.CosineDecay`.

    Raises:
        ValueError: for arguments out of range.
    """
    check_peak(peak)
    check_steps("steps", steps, least=1)
    check_steps("warmup_steps", warmup_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup_steps),
        alpha=fraction("final_fraction", final_fraction),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def constant(peak):
    """The same learning rate at every step."""
    check_peak(peak)
    return peak


def check_peak(peak):
    """Raises a ValueError for a learning rate that is not above 0."""
    if not peak > 0:
        raise ValueError(f"peak must be a number above 0, got {peak!r}")


def check_steps(name, value, least=0):
    """Raises a ValueError for a number of steps that is too small."""
    if value < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")


SCHEDULES = {
    "constant": constant,
    "warmup_inverse_sqrt": WarmupInverseSqrt,
    "cosine_decay": cosine_decay,
}
