"""Compares two processes that train together with a single process; all run the script below."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

import tfmoe

# `make test` runs a shorter test: tests/cli/test_launch.py trains on two workers too.
pytestmark = pytest.mark.slow
SECONDS = 600  # for all processes together
SCRIPT = """\
import contextlib, json, os, pathlib, sys

import keras
import numpy as np
import tensorflow as tf

from tfmoe.distribute import MixedStrategy
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.training.state import TrainingState

folder, *others = map(pathlib.Path, sys.argv[1:])
strategy = MixedStrategy() if "TF_CONFIG" in os.environ else None
worker = strategy.worker if strategy else 0
# The parts of two workers have different sizes, the same size, and one row: none for worker 0.
# All words of a batch are distinct. Equal words would have equal features; the selection of an
# expert of `Batchwise` would then depend on rounding, which differs with the number of devices.
VOCABULARY = 80
rng = np.random.default_rng(0)
batches = []
for rows, length in [(7, 5), (12, 6), (3, 9), (1, 4)]:
    words = 1 + rng.permutation(VOCABULARY - 1)[: rows * length]
    x = words.reshape(rows, length).astype("int32")
    x[np.arange(length)[None] >= rng.integers(1, length + 1, rows)[:, None]] = 0
    y = rng.integers(0, VOCABULARY, x.shape)
    batches.append((x, np.where(x > 0, y, 0).astype("int32")))
data = tf.data.Dataset.from_generator(
    lambda: iter(batches), output_signature=(tf.TensorSpec((None, None), tf.int32),) * 2
).apply(tf.data.experimental.assert_cardinality(len(batches)))


def make_optimizer():
    '''The gradient of a threshold is often 0 except for rounding errors; with a small epsilon they
    would become a step.'''
    return keras.optimizers.Adam(1e-2, epsilon=1e-4, global_clipnorm=0.5)


def train(name, gate):
    keras.utils.set_random_seed(3)
    with strategy.scope() if strategy else contextlib.nullcontext():
        blocks = residual_blocks([MoE(5, 7, gate=gate, name="moe")])
        model = LanguageModel(VOCABULARY, 6, blocks)
        model.compile(make_optimizer())
        model.build((None, None))
    history = model.fit(data, epochs=2, verbose=0, shuffle=False).history
    evaluated = model.evaluate(data, verbose=0, return_dict=True)
    weights = [np.asarray(weight.numpy()) for weight in model.weights]
    TrainingState(model, folder / f"{name}-checkpoints").save()
    model.save_weights(folder / f"{name}-{worker}.weights.h5")
    np.savez(folder / f"{name}-{worker}.npz", *weights)
    return {"history": history, "evaluated": evaluated}


def load(folder, name, gate):
    '''Loads the files of two workers into this single process.'''
    model = LanguageModel(VOCABULARY, 6, residual_blocks([MoE(5, 7, gate=gate, name="moe")]))
    model.compile(make_optimizer())
    model.build((None, None))
    for index in range(2):
        model.load_weights(folder / f"{name}-{index}.weights.h5")
        np.savez(folder / f"{name}-h5-{index}.npz", *[weight.numpy() for weight in model.weights])
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    state = TrainingState(model, folder / f"{name}-checkpoints")
    assert state.restore() and state.step == 2 * len(batches)
    np.savez(folder / f"{name}-checkpoint.npz", *[weight.numpy() for weight in model.weights])


gates = {
    "flat": NoisyTopK(k=2, noise=False, importance_weight=0.1),
    "batchwise": Batchwise(k=2, importance_weight=0.1),
}
for name, gate in gates.items():
    results = train(name, gate)
    (folder / f"{name}-{worker}.json").write_text(json.dumps(results, default=float))
    for other in others:
        load(other, name, gate)
"""


def start(*folders, cluster=None, index=0):
    """Starts the script, which trains in the first folder and loads the files in the others.
    `cluster` is the list of all addresses.
    """
    variables = {
        "PYTHONPATH": str(pathlib.Path(tfmoe.__file__).parents[1]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_NUM_INTRAOP_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    if cluster:
        task = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
        variables["TF_CONFIG"] = json.dumps(task)
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, *map(str, folders)],
        env={**os.environ, **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes):
    """Waits for processes, which must all succeed, and kills those still running."""
    try:
        errors = [process.communicate(timeout=SECONDS)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), errors
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def free_addresses(count):
    sockets = [socket.socket() for _ in range(count)]
    for sock in sockets:
        sock.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in sockets]
    for sock in sockets:
        sock.close()
    return addresses


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The folders of one process, and of two workers whose weights one process loaded later."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    addresses = free_addresses(2)
    finish([start(two, cluster=addresses, index=index) for index in range(2)])
    finish([start(one, two)])
    return one, two


def weights(path):
    with np.load(path) as file:
        return [file[name] for name in file.files]


def check_same_weights(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("gate", ["flat", "batchwise"])
def test_two_workers_train_like_one_process(folders, gate):
    one, two = folders
    expected = json.loads((one / f"{gate}-0.json").read_text())
    assert len(expected["history"]["loss"]) == 2
    for worker in range(2):
        actual = json.loads((two / f"{gate}-{worker}.json").read_text())
        for part, logs in expected.items():
            assert set(actual[part]) == set(logs)
            for name, value in logs.items():
                assert actual[part][name] == pytest.approx(
                    value, rel=1e-5, abs=1e-6, nan_ok=True
                ), name
        check_same_weights(weights(two / f"{gate}-{worker}.npz"), weights(one / f"{gate}-0.npz"))


@pytest.mark.parametrize("gate", ["flat", "batchwise"])
@pytest.mark.parametrize("saved", ["h5-0", "h5-1", "checkpoint"])
def test_one_process_loads_the_files_of_two_workers(folders, gate, saved):
    _, two = folders
    check_same_weights(weights(two / f"{gate}-{saved}.npz"), weights(two / f"{gate}-0.npz"))
