"""Converts TensorFlow's errors for a lost worker to a readable message.

The messages below were observed by killing and stopping workers (TensorFlow 2.21). Worker 0 runs
the coordination service:

- After 20 seconds without heartbeats of a worker, worker 0 reports it to all: "Error reported
  from /job:worker/task:1: The following tasks are unhealthy (stopped sending heartbeats):
  /job:worker/replica:0/task:1 The tasks have crashed …".
- A worker that waits for a killed process may fail at once: "Connection reset by peer", or
  "Connection refused", "… from remote target /job:worker/replica:0/task:0 while calling …".
- Worker 0 was killed or hangs: "Failed to send RPC to coordination service. …", or "Deadline
  Exceeded RPC: ", with "/tensorflow.CoordinationService/Heartbeat".
- `StopWhenStuck` aborted first: its message, which names no worker.
- Worker 0 was never started: "… while calling /tensorflow.CoordinationService/RegisterTask".
"""

import contextlib
import re
import socket
import time
from collections.abc import Iterator

import tensorflow as tf

TASK = re.compile(r"/job:worker/(?:replica:\d+/)?task:(\d+)")
UNHEALTHY = re.compile(r"stopped sending heartbeats\):(.*?)The tasks have crashed", re.DOTALL)
REMOTE = re.compile(r"from remote target (\S+) while calling")
CAUSE = re.compile(r"Collective ops is aborted by: (.*)")

# The errors that aborted collective operations raise.
ABORT_ERRORS = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


@contextlib.contextmanager
def stopping_when_a_worker_is_gone() -> Iterator[None]:
    """Converts TensorFlow's errors for a lost worker to a `ConnectionError` that names the worker.

    TensorFlow detects within seconds that a worker does not respond, and aborts all collective
    operations.

    Raises:
        ConnectionError: the block raised an error of an aborted collective operation.
    """
    try:
        yield
    except ABORT_ERRORS as error:
        raise ConnectionError(explain(error.message)) from error


def explain(message):
    """Explains the error of a collective operation in one sentence, and says what to do."""
    if "CoordinationService/RegisterTask" in message:
        return start_timeout_message(["worker 0"])
    workers = sorted(set(lost_workers(message)))
    if not workers:
        return f"the workers lost their connections: {cause(message)}"
    names = " and ".join(f"worker {index}" for index in workers)
    return (
        f"{names} {'are' if len(workers) > 1 else 'is'} gone or not responding (see the output of "
        "that worker for the cause). Restart all workers with --resume; the number of workers may "
        "change"
    )


def lost_workers(message):
    """The indices of the workers that an error reports as lost; empty if it names none."""
    unhealthy = UNHEALTHY.search(message)
    if unhealthy:
        return [int(index) for index in TASK.findall(unhealthy[1])]
    if "CoordinationService/Heartbeat" in message:  # served by worker 0 only
        return [0]
    remote = REMOTE.findall(message)  # the last one is the source: the others forwarded its error
    return [int(index) for index in TASK.findall(remote[-1])] if remote else []


def cause(message):
    """The most informative line of an error."""
    match = CAUSE.search(message)
    return match[1] if match else message.splitlines()[0]


def start_timeout_message(names):
    """The error message for workers that do not start in time."""
    return (
        f"{' and '.join(names)} did not respond in time: start all workers at about the same time, "
        "with the same addresses, or raise distribute.start_timeout_seconds"
    )


def wait_for_addresses(addresses, timeout_seconds):
    """Waits until workers accept connections. TensorFlow would wait without a timeout.

    Args:
        addresses: `{name: "host:port"}`.
        timeout_seconds: the total time to wait.

    Raises:
        ConnectionError: some workers do not listen in time; the message names them.
    """
    end = time.monotonic() + timeout_seconds
    missing = dict(addresses)
    while missing:
        missing = {name: address for name, address in missing.items() if not listens(address)}
        if missing and time.monotonic() > end:
            names = [f"{name} ({address})" for name, address in missing.items()]
            raise ConnectionError(start_timeout_message(names))
        time.sleep(0.1)


def listens(address):
    """Whether a connection to `host:port` can be made."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False
