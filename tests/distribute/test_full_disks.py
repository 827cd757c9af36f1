import errno

import pytest
import tensorflow as tf

from tfmoe.distribute.full_disks import full_disk_named, parse_message

# The message of TensorFlow 2.21 on a file system of a few kilobytes.
WRITER = (
    "{{function_node __wrapped__CreateSummaryFileWriter_device_/job:localhost/replica:0/task:0/"
    "device:CPU:0}} /runs/a b/logs/train/events.out; No space left on device\n"
    "\tFailed to flush 1 events to /runs/a b/logs/train/events.out\n\tFlushing first event."
)


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (WRITER, (errno.ENOSPC, "/runs/a b/logs/train/events.out")),
        ("x; Disk quota exceeded [Op:SaveV2]", (errno.EDQUOT, "x")),
        ("OOM when allocating tensor with shape[1] on GPU:0", (None, None)),
        ("/a; Permission denied", (None, None)),
    ],
)
def test_messages(message, expected):
    assert parse_message(message) == expected


def test_errors():
    full = tf.errors.ResourceExhaustedError(None, None, WRITER)
    with pytest.raises(OSError) as caught, full_disk_named("/runs/other"):
        raise full
    assert caught.value.filename == "/runs/a b/logs/train/events.out"
    with pytest.raises(OSError) as caught, full_disk_named("/runs/other"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.filename == "/runs/other"
    for other in (
        tf.errors.ResourceExhaustedError(None, None, "OOM"),
        FileNotFoundError(errno.ENOENT, "no"),
        OSError("without an error code"),
    ):
        with pytest.raises(type(other)) as caught, full_disk_named("/runs/other"):
            raise other
        assert caught.value is other
