import socket
import time

import pytest
import tensorflow as tf

from tfmoe.distribute import stopping_when_a_worker_is_gone
from tfmoe.distribute.failures import explain, lost_workers, wait_for_addresses

# Observed messages of TensorFlow 2.21. Stack traces can name other workers.
HEAD = """\
Graph execution error:

Detected at node moe_0_1/gate_1/CollectiveReduceV2 defined at (most recent call last):
  File "/heartbeat/task:7/train.py", line 5, in <module>

Collective ops is aborted by: """
TAIL = """
The error could be from a previous operation. Restart your program to reset.
[[{{node moe_0_1/gate_1/CollectiveReduceV2}}]] [Op:__inference_multi_step_on_iterator_4409]"""
UNHEALTHY = """\
Error reported from /job:worker/task:{}: The following tasks are unhealthy (stopped sending \
heartbeats):
{}
The tasks have crashed. Check the task logs for an earlier error, or scheduler events (e.g. \
preemption, eviction) to debug further."""
REMOTE = """\
{} to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:59303: Connection refused
Additional GRPC error information from remote target /job:worker/replica:0/task:{} while calling \
/tensorflow.{}:
:UNKNOWN:Error received from peer  {{grpc_status:14}}"""
NAME = "/job:worker/replica:0/task:{}"

MESSAGES = {
    "killed": (UNHEALTHY.format(1, NAME.format(1)), [1]),
    "two killed": (UNHEALTHY.format(1, f"{NAME.format(12)}\n{NAME.format(3)}"), [12, 3]),
    "leader killed": (REMOTE.format("failed", 0, "WorkerService/CompleteInstance"), [0]),
    "leader killed, by heartbeat": (
        REMOTE.format("Failed", 0, "CoordinationService/Heartbeat"),
        [0],
    ),
    "leader stopped": ("Deadline Exceeded\n\nRPC: /tensorflow.CoordinationService/Heartbeat", [0]),
    "neighbour killed": (REMOTE.format("failed", 2, "WorkerService/RecvBuf"), [2]),
    "stuck": ("no batch finished for 10 seconds: is a worker stuck?", []),
}


@pytest.mark.parametrize(("message", "workers"), MESSAGES.values(), ids=MESSAGES)
def test_lost_workers(message, workers):
    assert lost_workers(HEAD + message + TAIL) == workers
    explanation = explain(HEAD + message + TAIL)
    assert "\n" not in explanation
    for worker in workers:
        assert f"worker {worker}" in explanation and "--resume" in explanation
    if not workers:
        assert explanation == f"the workers lost their connections: {message}"


def test_lost_workers_are_named_in_order():
    message = UNHEALTHY.format(1, f"{NAME.format(12)}\n{NAME.format(3)}")
    assert explain(message).startswith("worker 3 and worker 12 are gone")


def test_a_leader_that_did_not_start():
    explanation = explain(REMOTE.format("failed", 0, "CoordinationService/RegisterTask"))
    assert explanation.startswith("worker 0 did not respond in time")
    assert "distribute.start_timeout_seconds" in explanation


@pytest.mark.parametrize(
    "kind", ["UnavailableError", "DeadlineExceededError", "AbortedError", "CancelledError"]
)
def test_errors_of_a_lost_worker(kind):
    message = HEAD + UNHEALTHY.format(1, NAME.format(1)) + TAIL
    with (
        pytest.raises(ConnectionError, match=r"^worker 1 is gone"),
        stopping_when_a_worker_is_gone(),
    ):
        raise getattr(tf.errors, kind)(None, None, message)


def test_other_errors_are_raised_unchanged():
    with pytest.raises(tf.errors.InvalidArgumentError), stopping_when_a_worker_is_gone():
        raise tf.errors.InvalidArgumentError(None, None, "heartbeat")


def test_waiting_for_addresses():
    with socket.socket() as listening, socket.socket() as silent:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        silent.bind(("127.0.0.1", 0))  # does not listen
        addresses = {"worker 1": f"127.0.0.1:{listening.getsockname()[1]}"}
        wait_for_addresses({}, 0)
        wait_for_addresses(addresses, 5)
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=rf"^worker 2 \({address}\) did not respond"):
            wait_for_addresses(addresses | {"worker 2": address}, 1)
        assert 1 <= time.monotonic() - start < 30
