"""Divides the CPU into four devices, for the tests of `tfmoe.distribute`: TensorFlow allows it only
before its first use in a process. Keeps the memory of a long session small.
"""

import contextlib
import gc
import resource

import hypothesis
import pytest
import tensorflow as tf
from tensorflow_graphs import custom_gradients, forget_custom_gradients

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)

# The same examples in every run, so that a change fails its own tests and no others.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


def pytest_collection_finish():
    """Spares the garbage collector all that the imports made: with it, a fifth of the session's
    time went into collections.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def free_graphs():
    """Lets the graphs that a test traced go with the test."""
    before = custom_gradients()
    yield
    forget_custom_gradients(custom_gradients() - before)


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond a number of bytes, as on a disk that fills up."""

    @contextlib.contextmanager
    def full_disk(most):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full_disk
