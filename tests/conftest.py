"""Divides the CPU into four devices, for the tests of `tfmoe.distribute`: TensorFlow allows it only
before its first use in a process.
"""

import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 4)
