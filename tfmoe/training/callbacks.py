"""Keras callbacks of a training run."""

import math
import time

import keras


class Throughput(keras.callbacks.Callback):
    """Adds `seconds` and `words_per_second` of each epoch's training, validation aside, to the
    logs.

    The model's logs must have `words`, as `tfmoe.models.LanguageModel`'s do.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._begin, self._trained = time.perf_counter(), None

    def on_test_begin(self, logs=None):
        self._trained = self._trained or time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        seconds = (self._trained or time.perf_counter()) - self._begin
        logs["seconds"] = seconds
        logs["words_per_second"] = logs["words"] / seconds


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with the few logs that one wants to see move: loss, perplexity, words a
    second, and the largest expert load over the mean. The others are in `history.csv` and
    TensorBoard.
    """

    SHOWN = ("loss", "perplexity", "words_per_second", "max_over_mean_load")

    def _shown(self, logs):
        return {name: value for name, value in (logs or {}).items() if name.endswith(self.SHOWN)}

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, self._shown(logs))

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(batch, self._shown(logs))

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, self._shown(logs))

    def on_test_end(self, logs=None):
        super().on_test_end(self._shown(logs))


class History(keras.callbacks.Callback):
    """Writes `history.csv`: a row of logs per epoch. A resumed run takes up the rows of its
    finished epochs.

    Args:
        run: a `RunDirectory`.
    """

    def __init__(self, run):
        super().__init__()
        self.run = run

    def on_epoch_end(self, epoch, logs=None):
        rows = [row for row in self.run.read_history() if row["epoch"] < epoch + 1]
        logs = {name: float(value) for name, value in logs.items()}
        self.run.write_history([*rows, {"epoch": epoch + 1, **logs}])


class SaveState(keras.callbacks.Callback):
    """Saves the training state after every epoch, and the weights when they are the best so far.

    Args:
        state: a `TrainingState`.
        monitor: the log to be lowest for the best weights; where it is missing, the last weights
            are the best.
        every_steps: also save the state every so many steps; `None` for after epochs only.

    Raises:
        FloatingPointError: if an epoch's loss is not finite. The state is then not saved, so that
            the last good one remains.
    """

    def __init__(self, state, monitor="val_perplexity", every_steps=None):
        super().__init__()
        self.state = state
        self.monitor = monitor
        self.every_steps = every_steps

    def on_train_batch_end(self, batch, logs=None):
        if self.every_steps and self.state.step % self.every_steps == 0:
            self.state.save()

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise FloatingPointError(
                f"the loss became {logs['loss']} in epoch {epoch + 1}: try a lower learning rate, "
                "a longer warm-up or global_clip_norm; the state before this epoch is kept"
            )
        value = logs.get(self.monitor)
        if value is None or value < float(self.state.best):
            self.state.best.assign(math.inf if value is None else value)
            self.state.save_best()
        self.state.epoch.assign(epoch + 1)
        self.state.save()
