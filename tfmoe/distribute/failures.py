"""What TensorFlow says when a worker is gone, in words.

What it says was found by killing and stopping workers (TensorFlow 2.21); worker 0 leads them:

- Worker 0 notices after 20 seconds that another sends no heartbeats, and tells all: "Error reported
  from /job:worker/task:1: The following tasks are unhealthy (stopped sending heartbeats):
  /job:worker/replica:0/task:1 The tasks have crashed …".
- Whoever waits for a worker whose process is gone may notice at once: "Connection reset by peer",
  or "Connection refused", "… from remote target /job:worker/replica:0/task:0 while calling …".
- Worker 0 is gone, or stands still: "Failed to send RPC to coordination service. …", or "Deadline
  Exceeded RPC: ", with "/tensorflow.CoordinationService/Heartbeat".
- `StopWhenStuck` was quicker than all this: its own message, which names no worker.
- Worker 0 was never there: "… while calling /tensorflow.CoordinationService/RegisterTask".
"""

import contextlib
import re
import socket
import time

import tensorflow as tf

TASK = re.compile(r"/job:worker/(?:replica:\d+/)?task:(\d+)")
UNHEALTHY = re.compile(r"stopped sending heartbeats\):(.*?)The tasks have crashed", re.DOTALL)
REMOTE = re.compile(r"from remote target (\S+) while calling")
CAUSE = re.compile(r"Collective ops is aborted by: (.*)")

# What collective operations raise when they are aborted.
GONE = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
)


@contextlib.contextmanager
def stopping_when_a_worker_is_gone():
    """Turns TensorFlow's errors of a broken cluster into a `ConnectionError` that names the worker.

    TensorFlow notices within seconds that a worker does not answer any more, and aborts all
    collective operations.
    """
    try:
        yield
    except GONE as error:
        raise ConnectionError(what_happened(error.message)) from error


def what_happened(message):
    """One sentence on an error of a collective operation, and what to do."""
    if "CoordinationService/RegisterTask" in message:
        return not_started(["worker 0"])
    workers = sorted(set(lost_workers(message)))
    if not workers:
        return f"the workers lost one another: {cause(message)}"
    names = " and ".join(f"worker {number}" for number in workers)
    return (
        f"{names} {'are' if len(workers) > 1 else 'is'} gone, or does not answer (see its own "
        "output for the cause). Start all workers again with --resume; their number may be another"
    )


def lost_workers(message):
    """The numbers of the workers that an error says are gone; none if it does not say."""
    unhealthy = UNHEALTHY.search(message)
    if unhealthy:
        return [int(number) for number in TASK.findall(unhealthy[1])]
    if "CoordinationService/Heartbeat" in message:  # which only worker 0 answers
        return [0]
    remote = REMOTE.findall(message)  # the last is the farthest: others passed on what it said
    return [int(number) for number in TASK.findall(remote[-1])] if remote else []


def cause(message):
    """The line of an error that says most."""
    found = CAUSE.search(message)
    return found[1] if found else message.splitlines()[0]


def not_started(names):
    """What to say where workers do not appear at the beginning."""
    return (
        f"{' and '.join(names)} did not answer in time: start all workers at about the same time, "
        "with the same addresses, or raise distribute.start_timeout_seconds"
    )


def wait_for_addresses(addresses, timeout_seconds):
    """Waits until workers listen, for which TensorFlow itself would wait forever.

    Args:
        addresses: `{name: "host:port"}`.
        timeout_seconds: for all together.

    Raises:
        ConnectionError: if some do not; it names them.
    """
    end = time.monotonic() + timeout_seconds
    missing = dict(addresses)
    while missing:
        missing = {name: address for name, address in missing.items() if not listens(address)}
        if missing and time.monotonic() > end:
            raise ConnectionError(not_started([f"{n} ({a})" for n, a in missing.items()]))
        time.sleep(0.1)


def listens(address):
    """Whether a connection to `host:port` can be made."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
            return True
    except OSError:
        return False
