"""What `ExpertSummaries` wrote for TensorBoard, read back."""

import pathlib

import tensorflow as tf


def read_scalars(directory):
    """The scalars in the event files of a folder.

    A file that is being written, or was cut short by a kill, is read as far as it is whole.

    Args:
        directory: such as `logs/experts` in a run's folder; it need not exist.

    Returns:
        `{step: {tag: float}}`, steps rising; of one that was written twice the later values.
    """
    found = {}
    for file in sorted(pathlib.Path(directory).glob("events.out.tfevents.*")):
        for event in events(file):
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "scalars":
                    number = float(tf.make_ndarray(value.tensor))
                    found.setdefault(event.step, {})[value.tag] = number
    return dict(sorted(found.items()))


def events(file):
    """Yields the events of a file, as far as it is whole."""
    records = iter(tf.data.TFRecordDataset(str(file)))
    while True:
        try:
            yield tf.compat.v1.Event.FromString(next(records).numpy())
        except (StopIteration, tf.errors.DataLossError):
            return
