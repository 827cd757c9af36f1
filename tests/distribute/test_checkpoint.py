import contextlib
import shutil

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute import checkpoint as checkpoints
from tfmoe.distribute.checkpoint import Checkpoint, cuts, shapes_in, shards_of, slice_name
from tfmoe.distribute.shards import sharded
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.training.state import TrainingState, load_weights

D = 4


def variables_on(strategy, factor=1):
    """A sharded variable `[3, 2]` and a replicated one."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        plain = tf.Variable([10.0 * factor, 20.0])
        with sharded():
            shard = tf.Variable(factor * tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    return {"plain": plain, "shard": shard}


def values_of(variables):
    return {name: tf.convert_to_tensor(v).numpy().tolist() for name, v in variables.items()}


EXPECTED = {"plain": [10, 20], "shard": [[1, 2], [3, 4], [5, 6]]}


@pytest.mark.parametrize(
    ("replicas", "expected"),
    [
        (1, [(0, 3)]),
        (2, [(0, 2), (2, 3)]),
        (4, [(0, 1), (1, 2), (2, 3)]),
    ],  # none on the last device
)
def test_shards_by_hand(strategy_of, replicas, expected):
    variable = variables_on(strategy_of(replicas))["shard"]
    shards = list(shards_of(variable))
    assert [(begin, end) for _, begin, end in shards] == expected
    assert sum(part.shape[0] for part, _, _ in shards) == 3


def test_names_of_slices():
    assert slice_name([6], 4, 6) == "6 4,2"
    assert slice_name([4, 3, 5], 0, 2) == "4 3 5 0,2:0,3:0,5"


@pytest.mark.parametrize(
    ("rows", "slice_bytes", "expected"),
    [
        ((0, 10), None, [(0, 10)]),
        ((0, 10), 40, [(0, 4), (4, 8), (8, 10)]),
        ((3, 9), 45, [(3, 4), (4, 8), (8, 9)]),  # at multiples of 4 rows of the variable
        ((4, 8), 40, [(4, 8)]),
        ((2, 5), 1, [(2, 3), (3, 4), (4, 5)]),  # at least one row
    ],
)
def test_cuts_by_hand(rows, slice_bytes, expected):
    assert cuts(*rows, 10, slice_bytes) == expected


@pytest.mark.parametrize("before", [None, 1, 2, 4])
@pytest.mark.parametrize("after", [None, 2, 4])
def test_restore_on_another_number_of_devices(strategy_of, tmp_path, before, after):
    strategy, other = (replicas and strategy_of(replicas) for replicas in (before, after))
    Checkpoint(variables_on(strategy), tmp_path, "last", strategy).save(7)
    read = variables_on(other, factor=0)
    assert values_of(read)["shard"] == [[0, 0]] * 3
    checkpoint = Checkpoint(read, tmp_path, "last", other)
    assert checkpoint.latest() == str(tmp_path / "last-7")
    assert shapes_in(checkpoint.latest()) == {"plain": [2], "shard": [3, 2]}
    checkpoint.restore(checkpoint.latest())
    assert values_of(read) == EXPECTED
    parts = getattr(read["plain"], "values", [read["plain"]])
    assert [part.numpy().tolist() for part in parts] == [[10, 20]] * (after or 1)


@pytest.mark.parametrize("slice_bytes", [1, 8, 17])
@pytest.mark.parametrize(("before", "after"), [(None, 2), (2, None), (2, 4)])
def test_large_variables_are_saved_in_slices(
    strategy_of, tmp_path, monkeypatch, slice_bytes, before, after
):
    """The size can be another when they are restored."""
    monkeypatch.setattr(checkpoints, "SLICE_BYTES", slice_bytes)
    strategies = [None if n is None else strategy_of(n) for n in (before, after)]
    Checkpoint(variables_on(strategies[0]), tmp_path, "last", strategies[0]).save(7)
    monkeypatch.setattr(checkpoints, "SLICE_BYTES", 24)
    read = variables_on(strategies[1], factor=0)
    Checkpoint(read, tmp_path, "last").restore(str(tmp_path / "last-7"))
    assert values_of(read) == EXPECTED
    assert shapes_in(str(tmp_path / "last-7")) == {"plain": [2], "shard": [3, 2]}


def test_a_checkpoint_without_the_size_of_its_slices(strategy_of, tmp_path):
    """As of 0.1.0: a shard is read in one part."""
    path = str(tmp_path / "last-7")
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=["plain", "shard", "shard"],
        shape_and_slices=["", "3 2 0,2:0,2", "3 2 2,1:0,2"],
        tensors=[tf.constant([10.0, 20.0]), tf.constant([[1.0, 2], [3, 4]]), [[5.0, 6.0]]],
    )
    read = variables_on(strategy_of(2), factor=0)
    Checkpoint(read, tmp_path, "last").restore(path)
    assert values_of(read) == EXPECTED


def test_floating_point_values_are_cast(strategy_of, tmp_path):
    Checkpoint(variables_on(None), tmp_path, "last").save(7)
    with strategy_of(2).scope(), sharded():
        shard = tf.Variable(tf.zeros([3, 2], tf.float64))
    plain = tf.Variable(tf.zeros([2], tf.float64))
    Checkpoint({"plain": plain, "shard": shard}, tmp_path, "last").restore(str(tmp_path / "last-7"))
    assert values_of({"plain": plain, "shard": shard}) == EXPECTED
    integers = {"plain": tf.Variable(tf.zeros([2], tf.int32))}
    with pytest.raises(ValueError, match=r"last-7 is damaged: .*int32"):
        Checkpoint(integers, tmp_path, "last").restore(str(tmp_path / "last-7"))


def test_no_checkpoint_is_saved(strategy_of, tmp_path):
    strategy = strategy_of(2)
    assert Checkpoint(variables_on(strategy), tmp_path, "last", strategy).latest() is None


def test_only_the_last_checkpoint_is_kept(strategy_of, tmp_path):
    strategy = strategy_of(2)
    for number in (1, 2, 2):
        Checkpoint(variables_on(strategy), tmp_path, "last", strategy).save(number)
    assert {path.name.partition(".data-")[0] for path in tmp_path.iterdir()} == {
        "checkpoint",
        "last-2.index",
        "last-2",
    }


def test_a_crash_during_save_keeps_the_previous_checkpoint(strategy_of, tmp_path):
    strategy = strategy_of(2)
    Checkpoint(variables_on(strategy), tmp_path, "last", strategy).save(1)
    saved = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    Checkpoint(variables_on(strategy, factor=5), tmp_path, "last", strategy).save(2)
    # The state after a crash of the second save: parts, and one file of the merged checkpoint.
    unfinished = tmp_path / "unfinished-last-2"
    unfinished.mkdir()
    (unfinished / "worker-0.index").write_bytes(b"x")
    (tmp_path / "last-2.index").unlink()
    for name, content in saved.items():
        (tmp_path / name).write_bytes(content)

    read = variables_on(strategy, factor=0)
    checkpoint = Checkpoint(read, tmp_path, "last", strategy)
    assert checkpoint.latest() == str(tmp_path / "last-1")
    checkpoint.restore(checkpoint.latest())
    assert values_of(read) == EXPECTED
    checkpoint.save(2)  # replaces the unfinished one
    assert not unfinished.exists()
    assert checkpoint.latest() == str(tmp_path / "last-2")
    checkpoint.restore(checkpoint.latest())
    assert values_of(read) == EXPECTED


def test_a_failed_save_keeps_the_previous_checkpoint(strategy_of, tmp_path):
    strategy = strategy_of(2)
    Checkpoint(variables_on(strategy), tmp_path, "last", strategy).save(1)
    (tmp_path / "unfinished-last-2").write_text("a file where a folder should be")
    read = variables_on(strategy, factor=5)
    checkpoint = Checkpoint(read, tmp_path, "last", strategy)
    with pytest.raises(OSError):
        checkpoint.save(2)
    assert checkpoint.latest() == str(tmp_path / "last-1")
    checkpoint.restore(checkpoint.latest())
    assert values_of(read) == EXPECTED


@pytest.mark.parametrize("file", ["last-1.index", "last-1.data-00000-of-00001"])
@pytest.mark.parametrize("content", [None, b"", b"x" * 100])
def test_damaged_checkpoints(strategy_of, tmp_path, file, content):
    Checkpoint(variables_on(None), tmp_path, "last").save(1)
    (tmp_path / file).unlink()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    strategy = strategy_of(2)
    checkpoint = Checkpoint(variables_on(strategy), tmp_path, "last", strategy)
    with pytest.raises(ValueError, match="last-1 is damaged"):
        shapes_in(checkpoint.latest())
        checkpoint.restore(checkpoint.latest())


def test_a_wrong_shape(tmp_path, strategy_of):
    Checkpoint(variables_on(None), tmp_path, "last").save(1)
    strategy = strategy_of(2)
    with strategy.scope(), sharded():
        shard = tf.Variable(tf.zeros([4, 2]))
    with pytest.raises(ValueError, match="last-1 is damaged"):
        Checkpoint({"shard": shard}, tmp_path, "last", strategy).restore(str(tmp_path / "last-1"))


# Resumed training.


def make_model(strategy, seed=3):
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(seed)
        inputs = keras.Input([D])
        gate = NoisyTopK(k=2, noise=False, importance_weight=0.1)
        x = MoE(8, 5, gate=gate, groups=4, name="moe")(inputs)
        model = keras.Model(inputs, keras.layers.Dense(2)(x))
        model.compile(keras.optimizers.Adam(0.05, global_clipnorm=0.5), "mse")
    return model


def fit(model, seed):
    """Trains for two steps and returns the losses."""
    rng = np.random.default_rng(seed)
    x, y = (rng.standard_normal((16, n)).astype("float32") for n in (D, 2))
    losses = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: losses.append(logs["loss"])
    )
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0, callbacks=[callback])
    return losses


@pytest.fixture(scope="module")
def trained_on_four(strategy_of, tmp_path_factory):
    """Checkpoints after two steps on four devices, and losses and weights of two more steps."""
    folder = tmp_path_factory.mktemp("checkpoints")
    model = make_model(strategy_of(4))
    state = TrainingState(model, folder)
    fit(model, seed=1)
    state.epoch.assign(7)
    state.best.assign(1.5)
    state.save()
    state.save_best()
    saved = model.get_weights()
    assert state.step == 2
    return folder, saved, fit(model, seed=2), model.get_weights()


@pytest.mark.parametrize("replicas", [None, pytest.param(1, marks=pytest.mark.slow), 2])
def test_resume_on_another_number_of_devices(strategy_of, trained_on_four, tmp_path, replicas):
    folder, saved, losses, weights = trained_on_four
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    model = make_model(replicas and strategy_of(replicas), seed=4)
    state = TrainingState(model, tmp_path)
    assert state.restore()
    assert (state.step, int(state.epoch), float(state.best)) == (2, 7, 1.5)
    for a, b in zip(model.get_weights(), saved, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(fit(model, seed=2), losses, rtol=1e-5)
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_the_best_weights_in_a_plain_model(trained_on_four):
    folder, saved, _, _ = trained_on_four
    model = make_model(None, seed=5)
    load_weights(model, folder)
    for a, b in zip(model.get_weights(), saved, strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_non_finite_shard_is_not_saved(strategy_of, tmp_path):
    model = make_model(strategy_of(4))
    state = TrainingState(model, tmp_path)
    kernel = model.get_layer("moe").experts.kernels[1]
    value = kernel.numpy()
    value[7, 2, 1] = np.nan  # on the last device
    kernel.assign(value)
    with pytest.raises(FloatingPointError, match="experts/kernel_1 is not finite"):
        state.save()
    assert not list(tmp_path.iterdir())
