import errno

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.training.state import TrainingState, load_weights


def build(units=3, extra=0):
    """A compiled model with every kind of state: trainable and other weights, a random generator,
    metrics, an optimizer.
    """
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Dense(units),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.5),
    ]
    layers += [keras.layers.Dense(1, use_bias=index == 0) for index in range(1 + extra)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    return model


def train(model, steps):
    """Trains on batches that depend on the step alone, and returns the last logs."""
    for step in range(int(model.optimizer.iterations), int(model.optimizer.iterations) + steps):
        x = np.random.default_rng(step).normal(size=(4, 2))
        logs = model.train_on_batch(x, x[:, :1], return_dict=True)
    return logs


def all_values(model):
    """The values of all variables that training changes."""
    variables = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return [np.asarray(variable) for variable in variables]


def test_resumed_training_equals_uninterrupted_training(tmp_path):
    whole = build()
    train(whole, 3)
    state = TrainingState(whole, tmp_path)
    state.epoch.assign(7)
    state.best.assign(1.5)
    state.seconds.assign(2.5)
    state.save()
    logs = train(whole, 2)

    other = build()
    train(other, 1)
    state = TrainingState(other, tmp_path)
    assert state.restore()
    assert (state.step, int(state.epoch), float(state.best), float(state.seconds)) == (
        3,
        7,
        1.5,
        2.5,
    )
    other.reset_metrics()  # as fit does at the start of an epoch
    state.restore_metrics()
    assert train(other, 2) == logs
    for actual, expected_value in zip(all_values(other), all_values(whole), strict=True):
        np.testing.assert_array_equal(actual, expected_value)
    state.restore_metrics()  # no effect the second time: the next epoch starts at 0
    for actual, expected_value in zip(all_values(other), all_values(whole), strict=True):
        np.testing.assert_array_equal(actual, expected_value)


def test_without_a_saved_state(tmp_path):
    model = build()
    before = all_values(model)
    state = TrainingState(model, tmp_path)
    assert not state.restore()
    state.restore_metrics()
    assert state.step == 0
    for now, then in zip(all_values(model)[: len(before)], before, strict=False):
        np.testing.assert_array_equal(now, then)
    with pytest.raises(FileNotFoundError, match="has no 'best' weights yet"):
        load_weights(model, tmp_path, "best")


def test_best_and_last_weights(tmp_path):
    model = build()
    state = TrainingState(model, tmp_path)
    train(model, 1)
    best = model.get_weights()
    state.save_best()
    train(model, 1)
    last = model.get_weights()
    state.save()
    for kind, expected in (("best", best), ("last", last)):
        other = build()
        load_weights(other, tmp_path, kind)
        for actual, expected_value in zip(other.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(actual, expected_value)


def test_only_the_latest_checkpoint_is_kept(tmp_path):
    model = build()
    for _ in range(3):
        state = TrainingState(model, tmp_path)  # like a new process
        state.restore()
        train(model, 1)
        state.save()
        state.save_best()
    assert [path.name for path in sorted(tmp_path.glob("*.index"))] == ["last-3.index"]
    assert [path.name for path in (tmp_path / "best").glob("*.index")] == ["best-3.index"]


def test_files_of_a_killed_save_are_ignored(tmp_path):
    model = build()
    state = TrainingState(model, tmp_path)
    train(model, 1)
    state.save()
    expected = model.get_weights()
    (tmp_path / "last-2_temp").mkdir()
    (tmp_path / "last-2_temp" / "part-00000-of-00001.data-00000-of-00001").write_bytes(b"x")
    (tmp_path / "last-2.data-00000-of-00001").write_bytes(b"x")
    (tmp_path / "last-2.index").write_bytes(b"x")
    (tmp_path / "last-0.data-00000-of-00001").write_bytes(b"x")  # killed between two deletions
    (tmp_path / "unfinished-last-2").mkdir()
    (tmp_path / "last-good.index").touch()  # not a file of TrainingState
    other = build()
    state = TrainingState(other, tmp_path)
    state.restore()
    complete = {"checkpoint", "last-1.index", "last-1.data-00000-of-00001", "last-good.index"}
    assert {path.name for path in tmp_path.iterdir()} == complete
    for actual, expected_value in zip(other.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(actual, expected_value)
    train(other, 1)
    (tmp_path / "last-2.data-00000-of-00001").write_bytes(b"x")
    (tmp_path / "last-1.data-00001-of-00002").write_bytes(b"x")
    state.save()  # overwrites the unfinished files
    assert {path.name for path in tmp_path.iterdir()} == {
        name.replace("-1.", "-2.") for name in complete
    }
    restored = TrainingState(build(), tmp_path)
    assert restored.restore() and restored.step == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 4}, r"000_kernel has shape \(2, 4\) in the model and shape \(2, 3\)"),
        ({"extra": 1}, r"_kernel has shape \(1, 1\) in the model and is missing in the checkpoint"),
    ],
)
@pytest.mark.parametrize("kind", ["best", "last", "state"])
def test_state_of_another_model_raises(tmp_path, arguments, message, kind):
    state = TrainingState(build(), tmp_path)
    state.save()
    state.save_best()
    other = build(**arguments)
    with pytest.raises(ValueError, match=message):
        if kind == "state":
            TrainingState(other, tmp_path).restore()
        else:
            load_weights(other, tmp_path, kind)


def test_model_with_fewer_weights_raises(tmp_path):
    TrainingState(build(extra=1), tmp_path).save()
    with pytest.raises(ValueError, match="it has 9 weights, the model 8"):
        load_weights(build(), tmp_path, "last")


def test_state_of_another_optimizer_raises(tmp_path):
    TrainingState(build(), tmp_path).save()
    other = build()
    other.compile(keras.optimizers.Adam(amsgrad=True), "mse")
    with pytest.raises(ValueError, match="belongs to another model or optimizer"):
        TrainingState(other, tmp_path).restore()


@pytest.mark.parametrize("file", ["last-0.index", "last-0.data-00000-of-00001"])
@pytest.mark.parametrize("content", [None, b"", b"x" * 100])
def test_damaged_checkpoint_raises(tmp_path, file, content):
    TrainingState(build(), tmp_path).save()
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match="last-0 is damaged"):
        TrainingState(build(), tmp_path).restore()
    with pytest.raises(ValueError, match="last-0 is damaged"):
        load_weights(build(), tmp_path, "last")


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = build()
    state = TrainingState(model, tmp_path)
    state.save()
    train(model, 1)
    model.layers[0].kernel.assign([[1, np.nan, 1], [1, 1, 1]])
    for save in (state.save, state.save_best):
        with pytest.raises(FloatingPointError, match="kernel is not finite"):
            save()
    assert tf.train.latest_checkpoint(str(tmp_path)) == str(tmp_path / "last-0")


def test_folder_that_cannot_be_created_raises(tmp_path):
    (tmp_path / "checkpoints").write_text("a file, no folder")
    with pytest.raises(OSError):
        TrainingState(build(), tmp_path / "checkpoints").save()


def test_nothing_is_removed_if_the_last_checkpoint_is_unknown(tmp_path):
    model = build()
    TrainingState(model, tmp_path).save()
    (tmp_path / "checkpoint").write_bytes(b"\x00")
    assert not TrainingState(build(), tmp_path).restore()
    assert len(list(tmp_path.glob("last-0.*"))) == 2


def test_full_disk_keeps_the_last_state(tmp_path, full_disk):
    model = build(units=300)
    state = TrainingState(model, tmp_path)
    state.save()
    train(model, 1)
    with full_disk(2000), pytest.raises(OSError) as caught:
        state.save()
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename.startswith(f"{tmp_path}/unfinished-last-1/worker-0")
    assert {path.name for path in tmp_path.iterdir()} == {
        "checkpoint", "last-0.index", "last-0.data-00000-of-00001",
    }  # fmt: skip
    other = build(units=300)
    assert TrainingState(other, tmp_path).restore()
    state.save()
    assert len(list(tmp_path.glob("last-1.*"))) == 2
