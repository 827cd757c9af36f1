"""Progress output."""

import sys
import time

import keras

BEFORE_EPOCHS = 0.25  # the share of a short training that builds and traces the model


def verbosity():
    """Keras' `verbose`: a progress bar on a terminal, a line per epoch in a file or a pipe."""
    return 1 if sys.stdout.isatty() else 2


class Stages:
    """Announces the stages of a long command, and estimates the time left.

    The estimate assumes that the remaining work is as fast as the work so far.

    Args:
        seconds: `{stage: seconds}` in order, measured on any machine: only the ratios matter. 0
            for a stage that is already done.
        clock: function that returns the time in seconds.
    """

    def __init__(self, seconds, clock=time.monotonic):
        self.seconds = seconds
        self.stage, self.fraction = next(iter(seconds)), 0.0
        self._clock, self._begin = clock, clock()

    def begin(self, stage, title):
        """Announces a stage, after the stages before it are done."""
        self.stage, self.fraction = stage, 0.0
        number = list(self.seconds).index(stage) + 1
        print(f"\n== {number} of {len(self.seconds)}: {title}{self.times()} ==", flush=True)

    def times(self):
        """`"; 1:10 so far, about 2:05 left"`; empty while there is no estimate."""
        left = self.left()
        if left is None:
            return ""
        return f"; {minutes(self._clock() - self._begin)} so far, about {minutes(left)} left"

    def left(self):
        """The estimated seconds left; `None` before any work is done."""
        names = list(self.seconds)
        done = sum(self.seconds[name] for name in names[: names.index(self.stage)])
        done += self.fraction * self.seconds[self.stage]
        if done <= 0:
            return None
        return (self._clock() - self._begin) * (sum(self.seconds.values()) - done) / done


class EpochsOfStage(keras.callbacks.Callback):
    """Prints the time left of the whole command after every epoch.

    Args:
        stages: the `Stages`, whose current stage is the training.
    """

    def __init__(self, stages):
        super().__init__()
        self.stages = stages

    def on_epoch_end(self, epoch, logs=None):
        done = (epoch + 1) / self.params["epochs"]
        self.stages.fraction = BEFORE_EPOCHS + (1 - BEFORE_EPOCHS) * done
        print(f"all stages{self.stages.times()}".replace(";", ":", 1), flush=True)


def minutes(seconds):
    """`"2:05"` for 125 seconds."""
    whole = round(seconds)
    return f"{whole // 60}:{whole % 60:02}"
