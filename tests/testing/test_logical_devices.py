"""Logical devices, in processes of their own: TensorFlow creates its devices once."""

import subprocess
import sys

import pytest

from tfmoe.testing.logical_devices import cpu_names, use_logical_devices

IN_USE = """
import tensorflow as tf
tf.ones([1])
from tfmoe.testing import use_logical_devices
use_logical_devices(2)
"""


def test_devices_of_this_process():
    use_logical_devices(4)
    assert cpu_names(2) == ["CPU:0", "CPU:1"]
    with pytest.raises(RuntimeError, match=r"with 4 logical CPUs, and cannot have 5: call"):
        use_logical_devices(5)
    with pytest.raises(RuntimeError, match=r"needs 8 logical CPUs, and TensorFlow has 4: call"):
        cpu_names(8)


@pytest.mark.slow
def test_tensorflow_is_in_use():
    done = subprocess.run([sys.executable, "-c", IN_USE], capture_output=True, text=True)
    assert done.returncode == 1
    assert "TensorFlow is in use with 1 logical CPU, and cannot have 2: call" in done.stderr
