"""Several devices in one process, for tests without accelerators."""

import tensorflow as tf


def use_logical_devices(count: int = 4) -> None:
    """Splits the CPU into logical devices, `CPU:0` to `CPU:3`, so that tests can run on several
    devices. Call it before TensorFlow computes anything: at the top of `conftest.py`. Further calls
    change nothing.

    Args:
        count: the number of logical devices.

    Raises:
        RuntimeError: TensorFlow is in use with fewer devices.

    Example:
        >>> use_logical_devices(4)
    """
    (cpu,) = tf.config.list_physical_devices("CPU")
    if len(tf.config.get_logical_device_configuration(cpu) or ()) >= count:
        return
    try:
        devices = [tf.config.LogicalDeviceConfiguration()] * count
        tf.config.set_logical_device_configuration(cpu, devices)
    except RuntimeError as error:
        available = len(tf.config.list_logical_devices("CPU"))
        raise RuntimeError(
            f"TensorFlow is in use with {available} logical CPU"
            f"{'' if available == 1 else 's'}, and cannot have {count}: call "
            f"tfmoe.testing.use_logical_devices({count}) before anything is computed or a layer "
            "with random numbers is created, at the top of conftest.py"
        ) from error


def cpu_names(count: int) -> list[str]:
    """The names of the first logical CPUs.

    Args:
        count: how many.

    Raises:
        RuntimeError: there are fewer.
    """
    available = len(tf.config.list_logical_devices("CPU"))
    if available < count:
        raise RuntimeError(
            f"the check needs {count} logical CPUs, and TensorFlow has {available}: call "
            f"tfmoe.testing.use_logical_devices({count}) at the top of conftest.py, before "
            "anything is computed"
        )
    return [f"CPU:{index}" for index in range(count)]
