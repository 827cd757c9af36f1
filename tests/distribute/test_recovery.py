"""Several strategies in one process, as in a notebook, after a failure.

The script below runs in separate processes: if recovery fails, TensorFlow disables the collectives
of the whole process. A process runs several scenarios; each must leave it in a working state.
"""

import os
import pathlib
import subprocess
import sys

import pytest

import tfmoe

SECONDS = 300
SCRIPT = """\
import importlib
import itertools
import sys
import time

import keras
import numpy as np
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

from tfmoe.distribute import MixedStrategy, abort_collectives, collectives


def make(kind):
    return kind(["CPU:0", "CPU:1"])


def total(strategy, size):
    '''All-reduces a vector of `size` ones.'''
    run = tf.function(lambda: strategy.run(lambda: collectives.all_reduce_sum(tf.ones([size]))))
    return strategy.experimental_local_results(run())[0].numpy().tolist()


def failing_step(strategy):
    '''One replica fails while the other waits for it.'''

    def fail():
        time.sleep(0.2)
        raise ValueError("mine")

    def replica():
        x = tf.ones([2])
        if collectives.replica_id() == 1:
            with tf.control_dependencies([tf.py_function(fail, [], [])]):
                x = tf.identity(x)
        return collectives.all_reduce_sum(x)

    try:
        tf.function(lambda: strategy.run(replica), autograph=False)()
    except tf.errors.InvalidArgumentError as error:
        assert "mine" in str(error), error
        return
    raise AssertionError("the step did not fail")


sizes = itertools.count(3)  # a new size each time: a collision with an earlier operation would fail


def check(*strategies):
    for size, strategy in zip(sizes, strategies, strict=False):
        assert total(strategy, size) == [2] * size


def first_step_fails():
    strategy = make(MixedStrategy)
    failing_step(strategy)
    check(strategy, make(MixedStrategy), strategy)


def later_step_fails():
    strategy = make(MixedStrategy)
    check(strategy)
    failing_step(strategy)
    check(strategy, make(MixedStrategy))


def tracing_fails():
    strategy = make(MixedStrategy)

    def replica():
        x = collectives.all_reduce_sum(tf.ones([2]))
        if collectives.replica_id() == 1:
            raise KeyError("mine")
        return x

    try:
        tf.function(lambda: strategy.run(replica), autograph=False)()
    except KeyError:
        check(strategy, make(MixedStrategy))
        return
    raise AssertionError("tracing did not fail")


def mirrored_strategies():
    def fit(width):
        with make(tf.distribute.MirroredStrategy).scope():
            model = keras.Sequential([keras.layers.Dense(width), keras.layers.Dense(1)])
            model.compile("adam", "mse")
        model.fit(np.ones([4, 2]), np.ones([4, 1]), verbose=0)

    for width in (2, 3, 5):
        fit(width)
    check(make(MixedStrategy))


def reload():
    global MixedStrategy, collectives
    for strategy in (make(MixedStrategy), make(MixedStrategy)):
        check(strategy)
        failing_step(strategy)
    for name in [name for name in sys.modules if name.startswith("tfmoe")]:
        del sys.modules[name]
    MixedStrategy = importlib.import_module("tfmoe.distribute").MixedStrategy
    collectives = importlib.import_module("tfmoe.distribute.collectives")
    check(make(MixedStrategy), make(MixedStrategy))


def aborted():
    strategy = make(MixedStrategy)
    abort_collectives("mine")
    try:
        make(MixedStrategy)
    except RuntimeError as error:
        assert "restart the process (in a notebook, the kernel)" in str(error), error
        return
    raise AssertionError("a strategy was created")


for scenario in sys.argv[1:]:
    globals()[scenario]()
    print(scenario, flush=True)
"""
# The scenarios of each process. In one process the very first step fails; only the last scenario
# may abort the collectives.
SCENARIOS = [
    ["mirrored_strategies", "later_step_fails", "reload"],
    ["first_step_fails", "tracing_fails", "aborted"],
]


@pytest.mark.parametrize("scenarios", SCENARIOS, ids="-".join)
def test_strategies_of_one_process(scenarios):
    variables = {
        "PYTHONPATH": str(pathlib.Path(tfmoe.__file__).parents[1]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "CUDA_VISIBLE_DEVICES": "-1",
    }
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *scenarios],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == scenarios
