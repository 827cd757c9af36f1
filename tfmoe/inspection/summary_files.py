"""What `ExpertSummaries` wrote for TensorBoard, read back."""

import pathlib

import tensorflow as tf


def read_scalars(directory):
    """The scalars in the event files of a folder.

    A file that is still being written, or was cut short, is read up to its last complete event.

    Args:
        directory: such as `logs/experts` in a run's folder; it need not exist.

    Returns:
        `{step: {tag: float}}`, in the order of steps; the later values of a step written twice.
    """
    rows = {}
    for file in sorted(pathlib.Path(directory).glob("events.out.tfevents.*")):
        for event in events(file):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    rows.setdefault(event.step, {})[value.tag] = number
    return dict(sorted(rows.items()))


def events(file):
    """Yields the events of a file, as far as it is whole."""
    records = iter(tf.data.TFRecordDataset(str(file)))
    while True:
        try:
            yield tf.compat.v1.Event.FromString(next(records).numpy())
        except (StopIteration, tf.errors.DataLossError):
            return
