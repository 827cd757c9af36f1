"""Runs a cluster of processes on this machine. Imports nothing of tfmoe."""

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

# How long the other workers may run after one has failed.
GRACE_SECONDS = 60
# Number of lines of a failed worker's output that are shown.
LAST_LINES = 15
# Signals for which Python raises no exception. Windows has no SIGHUP.
TERMINATION_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
PR_SET_PDEATHSIG = 1  # option of Linux' prctl: the signal to receive when the parent dies


class Worker(NamedTuple):
    """A process of the cluster.

    Attributes:
        rank: from 0.
        process: `subprocess.Popen`.
        log: the file of its output; `None` for worker 0, which writes to the output of launch.
    """

    rank: int
    process: subprocess.Popen
    log: pathlib.Path | None


@contextlib.contextmanager
def cluster(command, num_workers, logs):
    """Starts a cluster of processes. No process outlives the context.

    Args:
        command: list of strings, the same for all workers.
        num_workers: number of processes.
        logs: folder for the output of all workers but the first.

    Yields:
        List of `Worker`s.
    """
    addresses = free_addresses(num_workers)
    logs.mkdir(parents=True, exist_ok=True)
    workers = []
    with exit_on_signals():
        try:
            for rank in range(num_workers):
                log = logs / f"worker-{rank}.log" if rank else None
                with signals_postponed():  # between the start of a process and its registration
                    process = start(command, environment(addresses, rank), log)
                    workers.append(Worker(rank, process, log))
            yield workers
        finally:
            stop(workers)


@contextlib.contextmanager
def exit_on_signals():
    """Makes SIGTERM and SIGHUP raise `SystemExit`, so that contexts are exited."""
    with handled_signals(TERMINATION_SIGNALS, _exit):
        yield


def _exit(signal_number, _frame):
    raise SystemExit(128 + signal_number)


@contextlib.contextmanager
def signals_postponed():
    """Postpones SIGINT, SIGTERM and SIGHUP to the end of the block."""
    received = []
    signals = (signal.SIGINT, *TERMINATION_SIGNALS)
    try:
        with handled_signals(signals, lambda number, _frame: received.append(number)):
            yield
    finally:
        for number in received[:1]:
            signal.raise_signal(number)


@contextlib.contextmanager
def handled_signals(signals, handler):
    """Handles signals with a function, except those that are ignored (by nohup, for example)."""
    original = {number: signal.getsignal(number) for number in signals}
    original = {number: old for number, old in original.items() if old != signal.SIG_IGN}
    for number in original:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in original.items():
            signal.signal(number, old)


def free_addresses(count):
    """Addresses `127.0.0.1:PORT` that no process listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for bound in sockets:
            bound.bind(("127.0.0.1", 0))
        return [f"127.0.0.1:{bound.getsockname()[1]}" for bound in sockets]


def environment(addresses, rank):
    """The environment variables of a worker. Workers share the cores, and use no GPU."""
    task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": rank}}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = str(max(1, cores // len(addresses)))
    return {
        "TF_NUM_INTRAOP_THREADS": threads,
        **os.environ,
        "TF_CONFIG": json.dumps(task),
        "CUDA_VISIBLE_DEVICES": "-1",
        "PYTHONUNBUFFERED": "1",  # keeps the log complete if the worker is killed
    }


def start(command, environment, log):
    """Starts a worker. It is in a new process group, so that Ctrl-C only reaches launch. On Linux
    it is killed when launch is killed.

    Args:
        command: list of strings.
        environment: dictionary.
        log: file for its output; `None` for the output of this process.
    """
    with open(log, "w", encoding="utf-8") if log else contextlib.nullcontext() as output:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if log else None,
            **process_group_arguments(),
        )


def process_group_arguments():
    """The arguments of `subprocess.Popen` for a new process group, on any operating system."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if sys.platform != "linux":
        return {"process_group": 0}
    libc = ctypes.CDLL(None)

    def die_with_parent():
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    return {"process_group": 0, "preexec_fn": die_with_parent}


def wait(workers):
    """Waits until all workers have ended. After a failure, kills the others after a grace period.

    Returns:
        `{Worker: how it ended}`, in the order in which they ended.
    """
    outcomes, failed_at = {}, None
    while len(outcomes) < len(workers):
        running = [worker for worker in workers if worker not in outcomes]
        for worker in running:
            if worker.process.poll() is not None:
                outcomes[worker] = outcome(worker.process.returncode)
                failed_at = failed_at or (worker.process.returncode and time.monotonic())
        if failed_at and time.monotonic() > failed_at + GRACE_SECONDS:
            stop(running)
            late = f"did not end within {GRACE_SECONDS} seconds, and was stopped"
            return outcomes | {worker: late for worker in running if worker not in outcomes}
        time.sleep(0.1)
    return outcomes


def stop(workers):
    """Kills the workers that still run. Their saved files stay valid, as after any kill."""
    for worker in workers:
        worker.process.kill()
    for worker in workers:
        worker.process.wait()


def report(outcomes):
    """Text that says how each worker ended.

    Args:
        outcomes: the result of `wait`.
    """
    lines = []
    for worker, text in outcomes.items():
        where = f"its output is in {worker.log}" if worker.log else "its output is above"
        lines.append(f"tfmoe: worker {worker.rank} {text}; {where}")
        if worker.log and worker.process.returncode:
            text = worker.log.read_text(encoding="utf-8", errors="replace")
            lines += [f"  | {line}" for line in text.splitlines()[-LAST_LINES:]]
    return "\n".join(lines)


def outcome(returncode):
    """How a process ended, in words, from `subprocess`' return code."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit status {returncode}" if returncode else "finished"
