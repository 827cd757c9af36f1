"""Splits the CPU into four virtual devices, for the tests of `tfmoe.distribute`: TensorFlow allows
this only before its first use in a process. Limits the memory of a long session.
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

# The same examples in every run, so that tests only fail because of a change.
hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")


def pytest_collection_finish():
    """Excludes the objects of imports from garbage collection, which otherwise takes a fifth of the
    session's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(autouse=True)
def free_graphs():
    """Frees the graphs that a test traced after the test."""
    before = custom_gradients()
    yield
    forget_custom_gradients(custom_gradients() - before)


@pytest.fixture
def full_disk():
    """A context in which no file can grow beyond a number of bytes, as on a full disk."""

    @contextlib.contextmanager
    def full_disk(max_bytes):
        original = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, original[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, original)

    return full_disk
