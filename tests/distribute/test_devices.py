import json
import os
import subprocess
import sys

import pytest
import tensorflow as tf

from tfmoe.distribute import cluster_resolver, local_devices, logical_cpus

needs_no_gpu = pytest.mark.skipif(
    bool(tf.config.list_physical_devices("GPU")), reason="for machines without a GPU"
)


def test_logical_cpus_after_initialization(strategy_of):
    strategy_of(2)  # initializes TensorFlow
    assert logical_cpus(1) == ["CPU:0"]
    assert logical_cpus(3) == ["CPU:0", "CPU:1", "CPU:2"]


def test_too_many_logical_cpus_after_initialization(strategy_of):
    strategy_of(2)
    with pytest.raises(RuntimeError, match="divide the CPU into 5 devices before any other use"):
        logical_cpus(5)


def test_logical_cpus_in_a_new_process():
    code = (
        "import tensorflow as tf\n"
        "from tfmoe.distribute import logical_cpus\n"
        "print(logical_cpus(3), len(tf.config.list_logical_devices('CPU')))"
    )
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == "['CPU:0', 'CPU:1', 'CPU:2'] 3"


@needs_no_gpu
def test_local_devices_without_a_gpu():
    assert local_devices() == ["CPU:0"]
    assert local_devices(2) == ["CPU:0", "CPU:1"]


def set_cluster(monkeypatch, value):
    monkeypatch.setenv("TF_CONFIG", value if isinstance(value, str) else json.dumps(value))


def test_cluster_from_tf_config(monkeypatch):
    cluster = {"worker": ["host-a:2222", "host-b:2223"]}
    set_cluster(monkeypatch, {"cluster": cluster, "task": {"type": "worker", "index": 1}})
    resolver = cluster_resolver("tf_config")
    assert resolver.cluster_spec().as_dict() == cluster
    assert (resolver.task_type, resolver.task_id) == ("worker", 1)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "no json",
        "[]",
        {},
        {"cluster": {"worker": ["a:1"]}},
        {"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}},
        {"cluster": {"worker": ["a:1"], "ps": ["b:1"]}, "task": {"type": "ps", "index": 0}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": -1}},
        {"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": "0"}},
        {"cluster": {"worker": []}, "task": {"type": "worker", "index": 0}},
    ],
)
def test_no_cluster_of_workers(monkeypatch, value):
    set_cluster(monkeypatch, value)
    with pytest.raises(ValueError, match="TF_CONFIG must list the workers of the cluster"):
        cluster_resolver("tf_config")


def test_tf_config_is_not_set(monkeypatch):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    with pytest.raises(ValueError, match="it is not set"):
        cluster_resolver("tf_config")


def test_no_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith("SLURM")]:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="this process does not run in a Slurm step"):
        cluster_resolver("slurm")
