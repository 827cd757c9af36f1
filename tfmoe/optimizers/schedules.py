"""Learning rate schedules, by their names in configs.

The first argument of each is `peak`, the maximum learning rate; its other arguments are the keys of
a config.
"""

import keras
from keras import ops

from tfmoe.ops.arguments import fraction


@keras.saving.register_keras_serializable("tfmoe")
class WarmupInverseSqrt(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate that increases linearly, is constant, then decreases as 1/√step.

    The paper uses 1000 warm-up steps and no constant steps for language models (App. C), and 2000
    and 8000 steps for translation (App. E).

    Args:
        peak: the maximum learning rate.
        warmup_steps: W, the number of steps of the linear increase; step W - 1, the W-th, has the
            peak rate.
        constant_steps: the number of further steps at the peak rate.

    Raises:
        ValueError: an argument is out of range.

    Example:
        >>> schedule = WarmupInverseSqrt(peak=1.0, warmup_steps=4)
        >>> [float(schedule(step)) for step in (0, 3, 15)]
        [0.25, 1.0, 0.5]
    """

    def __init__(self, peak: float, warmup_steps: int = 1000, constant_steps: int = 0):
        check_peak(peak)
        check_steps("warmup_steps", warmup_steps, minimum=1)
        check_steps("constant_steps", constant_steps)
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.constant_steps = constant_steps

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1
        constant_end = float(self.warmup_steps + self.constant_steps)
        warmup = step / self.warmup_steps
        decay = ops.sqrt(constant_end / ops.maximum(step, constant_end))
        return self.peak * ops.minimum(ops.minimum(warmup, 1.0), decay)

    def get_config(self):
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "constant_steps": self.constant_steps,
        }


def cosine_decay(
    peak: float, steps: int, warmup_steps: int = 0, final_fraction: float = 0.0
) -> keras.optimizers.schedules.CosineDecay:
    """Learning rate that increases linearly, decreases along half a cosine, then is constant.

    Paper: it has no such schedule. This one is better if the number of steps is small and known in
    advance.

    Args:
        peak: the maximum learning rate.
        steps: the number of steps of increase and decrease together.
        warmup_steps: the number of steps of the increase.
        final_fraction: the final learning rate as a fraction of `peak`.

    Returns:
        `keras.optimizers.schedules.CosineDecay`.

    Raises:
        ValueError: an argument is out of range.
    """
    check_peak(peak)
    check_steps("steps", steps, minimum=1)
    check_steps("warmup_steps", warmup_steps)
    return keras.optimizers.schedules.CosineDecay(
        0.0,
        max(1, steps - warmup_steps),
        alpha=fraction("final_fraction", final_fraction),
        warmup_target=peak,
        warmup_steps=warmup_steps,
    )


def constant(peak: float) -> float:
    """The same learning rate in every step."""
    check_peak(peak)
    return peak


def check_peak(peak):
    """Raises a `ValueError` for a learning rate that is not above 0."""
    if not peak > 0:
        raise ValueError(f"peak must be a number above 0, got {peak!r}")


def check_steps(name, value, minimum=0):
    """Raises a `ValueError` for a number of steps that is too small."""
    if value < minimum:
        raise ValueError(f"{name} must be an integer of at least {minimum}, got {value!r}")


SCHEDULES = {
    "constant": constant,
    "warmup_inverse_sqrt": WarmupInverseSqrt,
    "cosine_decay": cosine_decay,
}
