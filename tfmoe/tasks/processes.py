"""A cluster of processes on this machine. Imports nothing of tfmoe."""

import contextlib
import ctypes
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from typing import NamedTuple

# How long the other workers may take to end by themselves when one has failed.
GRACE_SECONDS = 60
# How many lines of a failed worker's output are shown.
LAST_LINES = 15
# Signals of which Python, unlike SIGINT, makes no exceptions. Windows has no SIGHUP.
ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
KILL_WHEN_PARENT_DIES = 1  # PR_SET_PDEATHSIG of Linux' prctl


class Worker(NamedTuple):
    """A process of the cluster.

    Attributes:
        number: from 0.
        process: `subprocess.Popen`.
        log: the file that has its output; `None` for worker 0, whose output is launch's.
    """

    number: int
    process: subprocess.Popen
    log: pathlib.Path | None


@contextlib.contextmanager
def cluster(command, number, logs):
    """Processes that are a cluster, none of which outlives the context.

    Args:
        command: list of strings, the same for all.
        number: of processes.
        logs: folder for the output of all but the first.

    Yields:
        List of `Worker`s.
    """
    addresses = free_addresses(number)
    logs.mkdir(parents=True, exist_ok=True)
    started = []
    with ended_by_signals():
        try:
            for i in range(number):
                log = logs / f"worker-{i}.log" if i else None
                with signals_postponed():  # or a worker runs that nobody knows of
                    process = start(command, environment(addresses, i), log)
                    started.append(Worker(i, process, log))
            yield started
        finally:
            stop(started)


@contextlib.contextmanager
def ended_by_signals():
    """Lets SIGTERM and SIGHUP end this process as an exception does: blocks are left in order."""
    with handled(ENDING, _exit):
        yield


def _exit(number, _frame):
    raise SystemExit(128 + number)


@contextlib.contextmanager
def signals_postponed():
    """Lets the signals that end this process do so only when the block is over."""
    came = []
    try:
        with handled((signal.SIGINT, *ENDING), lambda number, _frame: came.append(number)):
            yield
    finally:
        for number in came[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def handled(numbers, handler):
    """Has a function handle signals, but for those that are ignored, as nohup has it."""
    before = {each: signal.getsignal(each) for each in numbers}
    before = {each: own for each, own in before.items() if own != signal.SIG_IGN}
    for each in before:
        signal.signal(each, handler)
    try:
        yield
    finally:
        for each, own in before.items():
            signal.signal(each, own)


def free_addresses(number):
    """Addresses `127.0.0.1:PORT` on which nothing listens now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]


def environment(addresses, index):
    """The environment variables of a worker. Workers share the cores, and use no GPU."""
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, cores // len(addresses)))
    return {
        "TF_NUM_INTRAOP_THREADS": threads,
        **os.environ,
        "TF_CONFIG": json.dumps(task),
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONUNBUFFERED": "1",  # a log is whole, however its worker ends
    }


def start(command, environment, log):
    """Starts a worker: in a process group of its own, so that Ctrl-C reaches launch alone, and such
    that it is killed (on Linux) when launch is.

    Args:
        command: list of strings.
        environment: dictionary.
        log: file for its output; `None` for that of this process.
    """
    with open(log, "w", encoding="utf-8") if log else contextlib.nullcontext() as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            **in_a_group(),
        )


def in_a_group():
    """The arguments of `subprocess.Popen` for a process group, by the operating system."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if sys.platform != "linux":
        return {"process_group": 0}
    libc = ctypes.CDLL(None)

    def die_with_parent():
        libc.prctl(KILL_WHEN_PARENT_DIES, signal.SIGKILL)

    return {"process_group": 0, "preexec_fn": die_with_parent}


def wait(workers):
    """Waits until all workers have ended, or one has failed and the others' time is over.

    Returns:
        `{Worker: how it ended}`, in the order in which they did.
    """
    ended, failed_at = {}, None
    while len(ended) < len(workers):
        running = [worker for worker in workers if worker not in ended]
        for worker in running:
            if worker.process.poll() is not None:
                ended[worker] = how(worker.process.returncode)
                failed_at = failed_at or (worker.process.returncode and time.monotonic())
        if failed_at and time.monotonic() > failed_at + GRACE_SECONDS:
            stop(running)
            late = f"did not end within {GRACE_SECONDS} seconds, and was stopped"
            return ended | {worker: late for worker in running if worker not in ended}
        time.sleep(0.1)
    return ended


def stop(workers):
    """Kills the workers that still run. What they saved is whole, as after any other kill."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()


def report(ended):
    """Which worker ended how.

    Args:
        ended: as `wait` gives it.
    """
    lines = []
    for worker, words in ended.items():
        where = f"its output is in {worker.log}" if worker.log else "its output is above"
        lines.append(f"tfmoe: worker {worker.number} {words}; {where}")
        if worker.log and worker.process.returncode:
            text = worker.log.read_text(encoding="utf-8", errors="replace")
            lines += [f"  | {line}" for line in text.splitlines()[-LAST_LINES:]]
    return "\n".join(lines)


def how(status):
    """A process's end in words, from `subprocess`' return code."""
    if status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with exit status {status}" if status else "finished"
