"""Keras callbacks of a training run."""

import math
import threading
import time
from collections.abc import Callable

import keras

from tfmoe.distribute import abort_collectives
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import TrainingState


class Throughput(keras.callbacks.Callback):
    """Adds `seconds` and `words_per_second` of each epoch to the logs.

    Both measure training without validation. The model must log `words`, as
    `tfmoe.models.LanguageModel` does.

    Args:
        state: `TrainingState`, which stores the seconds of an unfinished epoch.
    """

    def __init__(self, state: TrainingState):
        super().__init__()
        self.state = state

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter() - float(self.state.seconds)

    def on_train_batch_end(self, batch, logs=None):
        self.state.seconds.assign(time.perf_counter() - self._start)

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = float(self.state.seconds)
        logs["words_per_second"] = logs["words"] / logs["seconds"]
        self.state.seconds.assign(0)


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with few logs.

    The line that is redrawn at every step fits into 80 columns; a terminal would wrap a longer one.
    The end of an epoch also shows the largest expert load over the mean load and the words per
    second. `history.csv` and TensorBoard have all logs.

    Args:
        epochs: epochs of the whole run, of which a `fit` may be a part; `None` for the epochs of
            the `fit`.
    """

    EPOCH_END_LOGS = ("perplexity", "max_over_mean_load", "words_per_second")

    def __init__(self, epochs: int | None = None):
        super().__init__()
        self.total_epochs = epochs

    def set_params(self, params):
        super().set_params(params)
        self.epochs = self.total_epochs or self.epochs

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, {"loss": logs["loss"]})

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(batch, {"perplexity": logs["perplexity"]})

    def on_epoch_end(self, epoch, logs=None):
        shown = {"loss": logs["loss"]}
        for name, value in logs.items():
            if name == "val_perplexity" or not name.startswith("val_"):
                shown |= {name: value} if name.endswith(self.EPOCH_END_LOGS) else {}
        super().on_epoch_end(epoch, shown)

    def on_test_end(self, logs=None):
        super().on_test_end({"perplexity": logs["perplexity"]})


class History(keras.callbacks.Callback):
    """Writes `history.csv`, one row of logs per epoch.

    A resumed run keeps the rows of its finished epochs.

    Args:
        run: `RunDirectory`.
    """

    def __init__(self, run: RunDirectory):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        rows = [row for row in self.run.read_history() if row["epoch"] < epoch + 1]
        logs = {name: float(value) for name, value in logs.items()}
        self.run.write_history([*rows, {"epoch": epoch + 1, **logs}])


class StopWhenStuck(keras.callbacks.Callback):
    """Aborts training if no batch finishes within a time limit.

    In a cluster, all workers wait for a worker that is stuck.

    Args:
        timeout_seconds: maximum time between two batches, of training or evaluation.
        abort: function called with a message, from another thread, to make the waiting operation
            fail; `None` for `tfmoe.distribute.abort_collectives`.
    """

    def __init__(self, timeout_seconds: float, abort: Callable[[str], None] | None = None):
        super().__init__()
        self.timeout_seconds = timeout_seconds
        self.abort = abort or abort_collectives
        self._timer = None

    def _restart(self):
        self._stop()
        message = f"no batch finished for {self.timeout_seconds} seconds: is a worker stuck?"
        self._timer = threading.Timer(self.timeout_seconds, self.abort, [message])
        self._timer.daemon = True
        self._timer.start()

    def _stop(self):
        if self._timer is not None:
            self._timer.cancel()

    def on_train_begin(self, logs=None):
        self._restart()

    def on_train_batch_end(self, batch, logs=None):
        self._restart()

    def on_test_begin(self, logs=None):
        self._restart()

    def on_test_batch_end(self, batch, logs=None):
        self._restart()

    def on_test_end(self, logs=None):
        self._restart()

    def on_train_end(self, logs=None):
        self._stop()


class SaveState(keras.callbacks.Callback):
    """Saves the training state after every epoch, and the best weights.

    A resumed epoch continues with the metrics of its first part.

    Args:
        state: `TrainingState`.
        monitor: name of the log that selects the best weights, lowest first. Without this log, the
            last weights are the best.
        every_steps: also save the state whenever the step count is a multiple of this; `None` to
            save after epochs only.

    Raises:
        FloatingPointError: if the loss, the monitored log or a weight to be saved is not finite.
            Nothing is saved then, and the previous state remains.
    """

    def __init__(
        self,
        state: TrainingState,
        monitor: str = "val_perplexity",
        every_steps: int | None = None,
    ):
        super().__init__()
        self.state = state
        self.monitor = monitor
        self.every_steps = every_steps

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1
        self.state.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self._check("loss", logs["loss"])
        # on_epoch_end saves the state after the last step of an epoch.
        is_last = batch + 1 == self.params["steps"]
        if self.every_steps and not is_last and self.state.step % self.every_steps == 0:
            self._save(self.state.save)

    def on_epoch_end(self, epoch, logs=None):
        value = logs.get(self.monitor)
        self._check(self.monitor, 0.0 if value is None else value)
        if value is None or value < float(self.state.best):
            self.state.best.assign(math.inf if value is None else value)
            self._save(self.state.save_best)
        self.state.epoch.assign(epoch + 1)
        self.model.reset_metrics()
        self._save(self.state.save)

    def _check(self, name, value):
        if not math.isfinite(value):
            self._diverged(f"{name} became {value}")

    def _save(self, save):
        try:
            save()
        except FloatingPointError as error:
            self._diverged(str(error))

    def _diverged(self, problem):
        raise FloatingPointError(
            f"{problem} in epoch {self._epoch}, at step {self.state.step}: try a lower learning "
            "rate, a longer warm-up or global_clip_norm; the last saved state is kept"
        )
