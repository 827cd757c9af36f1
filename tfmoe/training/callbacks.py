"""Keras callbacks of a training run."""

import math
import threading
import time

import keras

from tfmoe.distribute import abort_collectives


class Throughput(keras.callbacks.Callback):
    """Adds `seconds` and `words_per_second` of each epoch's training, validation aside, to the
    logs.

    The model's logs must have `words`, as `tfmoe.models.LanguageModel`'s do.

    Args:
        state: a `TrainingState`, which keeps the seconds of an epoch that is resumed.
    """

    def __init__(self, state):
        super().__init__()
        self.state = state

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = time.perf_counter() - float(self.state.seconds)

    def on_train_batch_end(self, batch, logs=None):
        self.state.seconds.assign(time.perf_counter() - self._begin)

    def on_epoch_end(self, epoch, logs=None):
        logs["seconds"] = float(self.state.seconds)
        logs["words_per_second"] = logs["words"] / logs["seconds"]
        self.state.seconds.assign(0)


class Progress(keras.callbacks.ProgbarLogger):
    """Keras' progress bar with few logs: the moving line must fit into 80 columns, or a terminal
    breaks it at every step. At the end of an epoch also the largest expert load over the mean and
    the words a second. All logs are in `history.csv` and TensorBoard.

    Args:
        epochs: of the whole run, of which a `fit` may be a part; `None` for those of the `fit`.
    """

    AT_THE_END = ("perplexity", "max_over_mean_load", "words_per_second")

    def __init__(self, epochs=None):
        super().__init__()
        self.all_epochs = epochs

    def set_params(self, params):
        super().set_params(params)
        self.epochs = self.all_epochs or self.epochs

    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, {"loss": logs["loss"]})

    def on_test_batch_end(self, batch, logs=None):
        super().on_test_batch_end(batch, {"perplexity": logs["perplexity"]})

    def on_epoch_end(self, epoch, logs=None):
        shown = {"loss": logs["loss"]}
        for name, value in logs.items():
            if name == "val_perplexity" or not name.startswith("val_"):
                shown |= {name: value} if name.endswith(self.AT_THE_END) else {}
        super().on_epoch_end(epoch, shown)

    def on_test_end(self, logs=None):
        super().on_test_end({"perplexity": logs["perplexity"]})


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


class StopWhenStuck(keras.callbacks.Callback):
    """Ends training if nothing has happened for too long: another worker of a cluster may be stuck,
    for which all others wait.

    Args:
        timeout_seconds: between one batch, of training or evaluation, and the next.
        abort: called with a message, from another thread, to make the waiting operation fail;
            `None` for `tfmoe.distribute.abort_collectives`.
    """

    def __init__(self, timeout_seconds, abort=None):
        super().__init__()
        self.timeout_seconds = timeout_seconds
        self.abort = abort or abort_collectives
        self._timer = None

    def _restart(self):
        self._stop()
        message = f"nothing has happened for {self.timeout_seconds} seconds: is a worker stuck?"
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
    """Saves the training state after every epoch, and the weights when they are the best so far.

    An epoch that is resumed goes on with the metrics of its first part.

    Args:
        state: a `TrainingState`.
        monitor: the log to be lowest for the best weights; where it is missing, the last weights
            are the best.
        every_steps: also save the state every so many steps; `None` for after epochs only.

    Raises:
        FloatingPointError: as soon as the loss, the monitored log or a weight to be saved is not
            finite. The state is then not saved, so that the last good one remains.
    """

    def __init__(self, state, monitor="val_perplexity", every_steps=None):
        super().__init__()
        self.state = state
        self.monitor = monitor
        self.every_steps = every_steps

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch + 1
        self.state.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self._check("loss", logs["loss"])
        # After the last step of an epoch there is nothing to train until its end, which saves.
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

    def _diverged(self, what):
        raise FloatingPointError(
            f"{what} in epoch {self._epoch}, at step {self.state.step}: try a lower learning rate, "
            "a longer warm-up or global_clip_norm; the last saved state is kept"
        )
