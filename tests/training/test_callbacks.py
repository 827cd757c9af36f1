import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.training.callbacks import History, Progress, SaveState, Throughput
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import TrainingState


class Stop(keras.callbacks.Callback):
    """Raises KeyboardInterrupt after a training step, counted over all epochs."""

    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise KeyboardInterrupt


class Record(keras.callbacks.Callback):
    """Records the logs of epochs, and the steps at which the state is saved."""

    def __init__(self, state):
        super().__init__()
        self.saved, self.logs = [], []
        original = state.save

        def save():
            self.saved.append(state.step)
            original()

        state.save = save

    def on_epoch_end(self, epoch, logs=None):
        self.logs.append(dict(logs))


class Model(keras.Sequential):
    """A dense layer, with a metric `words` that counts targets."""

    def __init__(self):
        super().__init__([keras.Input((2,)), keras.layers.Dense(1)])
        self.words = keras.metrics.Sum(name="words")

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        self.words.update_state(tf.size(y))
        return tf.reduce_mean((y - y_pred) ** 2)


def build():
    keras.utils.set_random_seed(0)
    model = Model()
    model.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    return model


def data(start):
    """Infinite batches of 2, 3, 4, … examples."""

    def batches():
        step = start
        while True:
            x = np.random.default_rng(step).normal(size=(step + 2, 2)).astype("float32")
            yield x, x[:, :1] * 2
            step += 1

    signature = (tf.TensorSpec([None, 2]), tf.TensorSpec([None, 1]))
    return tf.data.Dataset.from_generator(batches, output_signature=signature)


def fit(state, *callbacks, epochs=2, steps=4, first_epoch=0):
    state.model.fit(
        data(state.step), epochs=epochs, steps_per_epoch=steps, initial_epoch=first_epoch,
        callbacks=list(callbacks), verbose=0, shuffle=False,
    )  # fmt: skip


def test_steps_at_which_the_state_is_saved(tmp_path):
    """Every 2 steps: after step 2, at the end of the epoch (once, although 4 is a multiple), …"""
    state = TrainingState(build(), tmp_path)
    record = Record(state)
    fit(state, SaveState(state, every_steps=2), record)
    assert record.saved == [2, 4, 6, 8]
    state = TrainingState(build(), tmp_path / "3")
    record = Record(state)
    fit(state, SaveState(state, every_steps=3), record)
    assert record.saved == [3, 4, 6, 8]
    state = TrainingState(build(), tmp_path / "epochs")
    record = Record(state)
    fit(state, SaveState(state), record)
    assert record.saved == [4, 8]
    assert int(state.epoch) == 2


def test_resumed_epoch_logs_equal_an_uninterrupted_one(tmp_path):
    whole = TrainingState(build(), tmp_path / "whole")
    expected = Record(whole)
    fit(whole, Throughput(whole), SaveState(whole), expected)

    state = TrainingState(build(), tmp_path / "parts")
    with pytest.raises(KeyboardInterrupt):
        fit(state, Throughput(state), SaveState(state, every_steps=3), Stop(7))
    state = TrainingState(build(), tmp_path / "parts")
    assert state.restore()
    assert (state.step, int(state.epoch)) == (6, 1)
    before = float(state.seconds)
    assert before > 0
    record = Record(state)
    fit(state, Throughput(state), SaveState(state), record, first_epoch=1, steps=2)
    (logs,) = record.logs
    assert logs["loss"] == expected.logs[1]["loss"]
    assert logs["words"] == expected.logs[1]["words"] == 6 + 7 + 8 + 9
    assert logs["seconds"] > before
    assert logs["words_per_second"] == logs["words"] / logs["seconds"]
    assert float(state.seconds) == 0


def test_best_weights_are_saved(tmp_path):
    state = TrainingState(build(), tmp_path)
    saved = []
    state.save_best = lambda: saved.append(state.step)
    callback = SaveState(state)
    callback.set_model(state.model)
    for epoch, value in enumerate([5.0, 4.0, 4.0, 4.5, 3.0]):
        callback.on_epoch_begin(epoch)
        state.model.optimizer.iterations.assign(epoch + 1)
        callback.on_epoch_end(epoch, {"loss": 1.0, "val_perplexity": value})
    assert saved == [1, 2, 5]
    assert float(state.best) == 3
    callback.on_epoch_end(5, {"loss": 1.0})  # without validation, the last weights are the best
    assert saved == [1, 2, 5, 5]
    assert math.isinf(float(state.best))


def test_loss_that_is_not_finite_stops_training(tmp_path):
    """Training stops at the step, not at the end of the epoch. The last finite state remains."""
    state = TrainingState(build(), tmp_path)
    fit(state, SaveState(state), epochs=1)

    class Explode(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 1:
                self.model.layers[0].kernel.assign([[np.inf], [1]])

    with pytest.raises(FloatingPointError) as caught:
        fit(state, Explode(), SaveState(state, every_steps=1), first_epoch=1)
    message = str(caught.value)
    assert message.startswith("loss became inf in epoch 2, at step 6: try a lower learning rate")
    other = TrainingState(build(), tmp_path)
    assert other.restore() and other.step == 5
    assert np.isfinite(other.model.get_weights()[0]).all()


def test_weights_and_monitored_logs_must_be_finite(tmp_path):
    """The last step of an epoch can produce weights of NaN although its loss is finite."""
    state = TrainingState(build(), tmp_path)
    callback = SaveState(state)
    callback.set_model(state.model)
    callback.on_epoch_begin(0)
    with pytest.raises(FloatingPointError, match="val_perplexity became nan in epoch 1"):
        callback.on_epoch_end(0, {"loss": 1.0, "val_perplexity": math.nan})
    state.model.layers[0].bias.assign([np.nan])
    with pytest.raises(FloatingPointError, match="bias is not finite in epoch 1, at step"):
        callback.on_epoch_end(0, {"loss": 1.0})
    assert not TrainingState(build(), tmp_path).restore()


def test_throughput_excludes_validation(tmp_path, monkeypatch):
    """Training starts at 10 s, steps end at 11 s and 14 s, validation ends at 20 s."""
    state = TrainingState(build(), tmp_path)
    clock = iter([10.0, 11.0, 14.0, 20.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    callback = Throughput(state)
    callback.on_epoch_begin(0)
    callback.on_train_batch_end(0)
    callback.on_train_batch_end(1)
    logs = {"words": 100.0}
    callback.on_epoch_end(0, logs)
    assert logs == {"words": 100.0, "seconds": 4.0, "words_per_second": 25.0}


def test_history(tmp_path):
    run = RunDirectory(tmp_path)
    callback = History(run)
    callback.on_epoch_end(0, {"loss": np.float32(2.5), "words": 3})
    callback.on_epoch_end(1, {"loss": 1.5, "words": 3, "val_loss": 7})
    assert run.history.read_text() == "epoch,loss,words,val_loss\n1,2.5,3,\n2,1.5,3,7\n"
    # Resumed after the first epoch: the row of the second is replaced.
    History(run).on_epoch_end(1, {"loss": 1.25, "words": 3, "val_loss": 6})
    assert run.history.read_text() == "epoch,loss,words,val_loss\n1,2.5,3,\n2,1.25,3,6\n"


LOGS = {
    "loss": 2.0, "words": 50.0, "moe_1_max_over_mean_load": 1.25, "moe_1_cv_load": 0.5,
    "val_loss": 3.0, "val_moe_1_max_over_mean_load": 4.0, "val_perplexity": 8.0,
    "words_per_second": 25.0,
}  # fmt: skip


@pytest.mark.parametrize("verbose", [1, 2])
def test_progress(capsys, verbose):
    callback = Progress(epochs=9)
    callback.set_params({"verbose": verbose, "epochs": 3, "steps": 2})
    callback.on_train_begin()
    callback.on_epoch_begin(2)
    for batch in range(2):
        callback.on_train_batch_end(batch, {"loss": 2.0, "moe_1_max_over_mean_load": 1.25})
    step_output = capsys.readouterr().out
    callback.on_epoch_end(2, LOGS)
    line = capsys.readouterr().out
    assert step_output.startswith("Epoch 3/9\n")
    assert ("loss: 2.0000" in step_output) == (verbose == 1)
    assert "load" not in step_output
    assert line.endswith(
        " - loss: 2.0000 - moe_1_max_over_mean_load: 1.2500 - val_perplexity: 8.0000"
        " - words_per_second: 25.0000\n"
    )


def test_progress_of_an_evaluation(capsys):
    callback = Progress()
    callback.set_params({"verbose": 2, "epochs": 1, "steps": 1})
    callback.on_test_begin()
    callback.on_test_batch_end(0, {"loss": 2.0, "perplexity": 8.0})
    callback.on_test_end({"loss": 2.0, "perplexity": 8.0})
    assert capsys.readouterr().out.endswith("/step - perplexity: 8.0000\n")
