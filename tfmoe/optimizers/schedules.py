"""Learning-rate schedules of the paper."""

import keras
from keras import ops


@keras.saving.register_keras_serializable("tfmoe")
class WarmupInverseSqrt(keras.optimizers.schedules.LearningRateSchedule):
    """Rises linearly, stays, then falls as 1/√step (App. C: no plateau, 1000 steps of warm-up; App.
    E: 2000, 8000).

    Args:
        peak: the highest learning rate.
        warmup_steps: W; step W - 1, the W-th, has the peak rate.
        constant_steps: steps at the peak after it.
    """

    def __init__(self, peak, warmup_steps=1000, constant_steps=0):
        if not peak > 0 or warmup_steps < 1 or constant_steps < 0:
            raise ValueError(
                "peak must be above 0, warmup_steps at least 1 and constant_steps at least 0, got "
                f"peak={peak}, warmup_steps={warmup_steps}, constant_steps={constant_steps}"
            )
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
