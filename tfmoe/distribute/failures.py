"""What TensorFlow says when a worker is gone, in words."""

import contextlib
import re

import tensorflow as tf

TASK = re.compile(r"/job:worker/(?:replica:\d+/)?task:(\d+)")


@contextlib.contextmanager
def stopping_when_a_worker_is_gone():
    """Turns TensorFlow's errors of a broken cluster into a `ConnectionError` that names the worker.

    TensorFlow notices within seconds that a worker does not answer any more, and aborts all
    collective operations.
    """
    try:
        yield
    except (
        tf.errors.UnavailableError,
        tf.errors.DeadlineExceededError,
        tf.errors.AbortedError,
        tf.errors.CancelledError,
    ) as error:
        raise ConnectionError(what_happened(error.message)) from error


def what_happened(message):
    """One sentence on an error of a collective operation."""
    _, _, after = message.rpartition("heartbeat")  # before it stands who noticed
    workers = sorted(set(TASK.findall(after)), key=int)
    if not workers:
        return f"the workers lost one another: {message.splitlines()[0]}"
    names = " and ".join(f"worker {number}" for number in workers)
    return (
        f"{names} {'are' if len(workers) > 1 else 'is'} gone (see its own output for the cause). "
        "Start all workers again with --resume; their number may be another"
    )
