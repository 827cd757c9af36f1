"""`tfmoe launch`: a cluster of processes, failures and signals."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tfmoe.tasks import processes

# Settings without random numbers, so that training is the same on any number of workers.
DETERMINISTIC = ["model.dropout=0", "model.num_sampled=null", "model.blocks[0].gate.noise=false"]
DETERMINISTIC = [argument for setting in DETERMINISTIC for argument in ("--set", setting)]
TIMEOUT = 600  # seconds until a process that a test waits for is killed


@pytest.fixture(autouse=True)
def default_signals():
    """Resets ignored signals, which processes inherit: SIGHUP under `nohup`, Ctrl-C in the
    background.
    """
    defaults = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in defaults.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(process):
    """`(exit status, standard output, standard error)` of a process, with a timeout."""
    try:
        out, err = process.communicate(timeout=TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()  # kills its workers too
        raise
    return process.returncode, out, err


@contextlib.contextmanager
def started(process):
    """Kills the process at the end, whatever fails."""
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def perplexity(path):
    return json.loads((path / "result.json").read_text())["perplexity"]


def workers_of(process):
    """The process ids of the workers that launch has started, in order."""
    path = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def until(condition, process):
    """Waits for a condition while a process runs."""
    end = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.05)


def gone(pid):
    """Whether a process has ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"


def test_two_workers_equal_one_process(command, start, corpus, tmp_path):
    settings = [*DETERMINISTIC, "--set", "training.epochs=2"]
    train = ["train", corpus / "tiny.yaml", *settings, "--run-dir", tmp_path / "one"]
    assert command(*train)[0] == 0
    arguments = ["launch", "--workers", "2", "tiny.yaml", *settings]
    arguments += ["--run-dir", str(tmp_path / "two")]
    with started(start(corpus, *arguments)) as process:
        status, out, err = run(process)
    assert status == 0, err
    assert "Epoch 2/2" in out and "The run is in" in out
    assert perplexity(tmp_path / "two") == pytest.approx(perplexity(tmp_path / "one"), rel=1e-5)
    log = (tmp_path / "two" / "logs" / "worker-1.log").read_text()
    assert "of these in experts" in log and "The run is in" not in log
    # One process loads the weights that the two have saved.
    status, out, _ = command("evaluate", tmp_path / "two", "--json")
    assert status == 0
    assert json.loads(out)["perplexity"] == pytest.approx(perplexity(tmp_path / "two"), rel=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.yaml", "--workers", "0"], "Invalid value for '--workers'"),
        (["tiny.yaml", "--workers", "257"], "Invalid value for '--workers'"),
        (["tiny.yaml", "--set", "model.d_model=x"], "model.d_model"),
        (["nowhere"], "nowhere"),
        (["tiny.yaml", "--set", "distribute.devices=2"], "distribute.devices"),
    ],
)
def test_errors_before_anything_starts(command, tmp_path, arguments, message):
    status, _, err = command("launch", *arguments, "--run-dir", tmp_path / "run")
    assert status == 2 and message in err and "Traceback" not in err
    assert not (tmp_path / "run").exists()


def test_a_run_in_the_folder_is_not_overwritten(refused, finished):
    err = refused("launch", "tiny.yaml", "--run-dir", finished.path)
    assert err.startswith(f"tfmoe: {finished.path} already has a run: resume it with --resume")


# A worker without TensorFlow, to test clusters quickly.
WORKER = """\
import json, os, time
index = json.loads(os.environ["TF_CONFIG"])["task"]["index"]
print("worker", index, "starts", flush=True)
{}
"""


def process_of(body):
    return [sys.executable, "-c", WORKER.format(body)]


def outcomes_of(body, num_workers, logs):
    with processes.cluster(process_of(body), num_workers, logs) as workers:
        return processes.wait(workers)


def test_environment_of_workers(tmp_path, capfd, monkeypatch):
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    body = "print(os.environ['TF_CONFIG'], os.environ['TF_NUM_INTRAOP_THREADS'])"
    assert set(outcomes_of(body, 3, tmp_path / "logs").values()) == {"finished"}
    logs = [path.read_text() for path in sorted(tmp_path.glob("*/*.log"))]
    outputs = [capfd.readouterr().out, *logs]
    assert len(outputs) == 3
    clusters = []
    for index, text in enumerate(outputs):
        assert text.startswith(f"worker {index} starts\n")
        config, _, threads = text.splitlines()[1].rpartition(" ")
        assert threads == "2"
        assert json.loads(config)["task"] == {"type": "worker", "index": index}
        clusters.append(json.loads(config)["cluster"])
    assert clusters[0] == clusters[1] == clusters[2]
    assert len(set(clusters[0]["worker"])) == 3
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "5")
    assert processes.environment(["a:1", "b:2"], 0)["TF_NUM_INTRAOP_THREADS"] == "5"


def test_report_of_a_failure(tmp_path):
    body = "time.sleep(index); print('an error'); os._exit(3) if index else os.abort()"
    outcomes = outcomes_of(body, 2, tmp_path)
    assert list(outcomes.values()) == ["was ended by SIGABRT", "ended with exit status 3"]
    log = tmp_path / "worker-1.log"
    assert processes.report(outcomes).splitlines() == [
        "tfmoe: worker 0 was ended by SIGABRT; its output is above",
        f"tfmoe: worker 1 ended with exit status 3; its output is in {log}",
        "  | worker 1 starts",
        "  | an error",
    ]


def test_a_worker_that_does_not_end_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "GRACE_SECONDS", 1)
    body = "os._exit(2) if index == 1 else time.sleep(600)"
    start = time.monotonic()
    outcomes = outcomes_of(body, 3, tmp_path)
    assert time.monotonic() - start < 60
    late = "did not end within 1 seconds, and was stopped"
    assert list(outcomes.values()) == ["ended with exit status 2", late, late]
    assert all(worker.process.poll() is not None for worker in outcomes)


LAUNCHER = f"""\
import sys, pathlib, signal
from tfmoe.tasks import processes
with processes.cluster([sys.executable, "-c", {WORKER.format("time.sleep(600)")!r}], 2,
                    pathlib.Path(sys.argv[1])) as workers:
    pids = (f"{{worker.process.pid}}\\n" for worker in workers)
    pathlib.Path(sys.argv[1], "pids").write_text("".join(pids))
    processes.wait(workers)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_orphans(tmp_path, sent):
    process = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, str(tmp_path)],
        cwd=pathlib.Path(processes.__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    with started(process):
        file = tmp_path / "pids"
        until(lambda: file.exists() and file.read_text().count("\n") == 2, process)
        pids = [int(line) for line in file.read_text().splitlines()]
        until(lambda: "starts" in (tmp_path / "worker-1.log").read_text(), process)
        process.send_signal(sent)
        assert process.wait(TIMEOUT) != 0
        end = time.monotonic() + 30
        while not all(map(gone, pids)) and time.monotonic() < end:
            time.sleep(0.05)
        assert all(map(gone, pids))


def test_ctrl_c(start, corpus, tmp_path):
    arguments = ["launch", "tiny.yaml", "--run-dir", str(tmp_path / "run")]
    with started(start(corpus, *arguments)) as process:
        until((tmp_path / "run" / "logs" / "worker-1.log").exists, process)
        until(lambda: len(workers_of(process)) == 2, process)
        pids = workers_of(process)
        process.send_signal(signal.SIGINT)
        status, _, err = run(process)
    assert status == 130 and "Traceback" not in err
    assert f"tfmoe launch --workers 2 tiny.yaml --run-dir {tmp_path / 'run'} --resume" in err
    assert all(map(gone, pids))


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_while_a_worker_starts(monkeypatch, tmp_path, number, error):
    """The signal comes before the worker is registered. The worker is killed all the same."""
    started_processes = []

    def start(*_):
        started_processes.append(subprocess.Popen(["sleep", "100"]))
        signal.raise_signal(number)
        return started_processes[-1]

    monkeypatch.setattr(processes, "start", start)
    try:
        with pytest.raises(error), processes.cluster([], 2, tmp_path):
            pytest.fail("the block was entered")
        (process,) = started_processes
        assert process.returncode == -signal.SIGKILL
    finally:
        for process in started_processes:
            process.kill()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [1, 0])
def test_a_killed_worker_then_resumed(command, start, corpus, tmp_path, victim):
    """A worker is killed within an epoch, and the run is resumed by two workers, or by one process.
    Both give the result of an uninterrupted run.
    """
    settings = [*DETERMINISTIC, "--set", "training.epochs=8"]
    train = ["train", corpus / "tiny.yaml", *settings]
    assert command(*train, "--run-dir", tmp_path / "whole")[0] == 0
    path = tmp_path / "run"
    arguments = ["--workers", "2", "tiny.yaml", *settings, "--run-dir", str(path)]
    with started(start(corpus, "launch", *arguments)) as process:
        until((path / "history.csv").exists, process)
        time.sleep(0.3)
        os.kill(workers_of(process)[victim], signal.SIGKILL)
        killed = time.monotonic()
        status, out, err = run(process)
        assert time.monotonic() - killed < 75
    assert status == 1 and "Traceback" not in out + err
    assert f"worker {victim} was ended by SIGKILL" in err
    assert f"worker {1 - victim} ended with exit status 2" in err
    assert f"tfmoe: worker {victim} is gone" in err
    assert f"tfmoe launch {' '.join(arguments[:3])}" in err and "--resume" in err
    assert not (path / "result.json").exists()

    alone = tmp_path / "alone"
    subprocess.run(["cp", "-r", path, alone], check=True)
    assert command(*train, "--run-dir", alone, "--resume")[0] == 0
    with started(start(corpus, "launch", *arguments, "--resume")) as process:
        status, out, err = run(process)
    assert status == 0, err
    assert "resuming" in out
    for resumed in (path, alone):
        assert losses(resumed)[-1] == pytest.approx(losses(tmp_path / "whole")[-1], rel=1e-5)
        assert perplexity(resumed) == pytest.approx(perplexity(tmp_path / "whole"), rel=1e-5)


def losses(path):
    lines = [line.split(",") for line in (path / "history.csv").read_text().splitlines()]
    return [float(line[lines[0].index("loss")]) for line in lines[1:]]
