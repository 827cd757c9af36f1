import errno
import json
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import MoE, ProjectedLSTM
from tfmoe.serving.saved_model import (
    checked_version,
    describe_signatures,
    exported_module,
    sha256,
    software,
    versions,
    write_saved_model,
)
from tfmoe.serving.signatures import Signature

DOUBLE = Signature(
    lambda x: {"doubled": 2 * x}, [tf.TensorSpec([None], tf.float32, "x")], "doubles"
)


def write_doubling(folder, version, facts=None):
    module, concrete = exported_module({"double": DOUBLE}, "double", {"weights": []})
    return write_saved_model(folder, version, module, concrete, facts or {})


def test_versions(tmp_path):
    out = tmp_path / "out"
    assert (versions(out), checked_version(out)) == ([], 1)
    for name in ("2", "10", ".3.1.tmp", "notes"):
        (out / name).mkdir(parents=True)
    assert (versions(out), checked_version(out), checked_version(out, 3)) == ([2, 10], 11, 3)
    with pytest.raises(ValueError, match=r"out/2 already exists.* next free version is 11"):
        checked_version(out, 2)
    with pytest.raises(ValueError, match="the version must be from 1 to"):
        checked_version(out, 0)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file is a file: name a folder"):
        checked_version(tmp_path / "file")


def test_version_and_manifest(tmp_path):
    path = write_doubling(tmp_path / "out", 4, {"a": "ä"})
    assert path == tmp_path / "out" / "4"
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["a"] == "ä"
    files = {p.relative_to(path).as_posix(): p for p in path.rglob("*") if p.is_file()}
    assert set(manifest["files"]) == set(files) - {"manifest.json"} >= {"saved_model.pb"}
    assert all(sha256(files[name]) == digest for name, digest in manifest["files"].items())
    loaded = tf.saved_model.load(str(path))
    for function in (loaded.signatures["serving_default"], loaded.signatures["double"]):
        assert function(x=tf.constant([3.0]))["doubled"].numpy().tolist() == [6.0]


def test_signatures_in_the_manifest():
    _, concrete = exported_module({"double": DOUBLE}, "double", {})
    assert describe_signatures({"double": DOUBLE}, concrete) == {
        "double": {
            "description": "doubles",
            "inputs": {"x": "float32 [?]"},
            "outputs": {"doubled": "float32 [?]"},
        }
    }


def test_software():
    versions = software()
    assert (versions["tensorflow"], versions["keras"]) == (tf.__version__, keras.__version__)


def test_failure_leaves_no_files(tmp_path, monkeypatch):
    def fail(module, path, **options):
        (tmp_path / "out" / path / "variables").mkdir()
        raise OSError("no space left")

    monkeypatch.setattr(tf.saved_model, "save", fail)
    with pytest.raises(OSError, match="no space left"):
        write_doubling(tmp_path / "out", 1)
    assert list((tmp_path / "out").iterdir()) == []


def test_full_disk_leaves_no_files(tmp_path, full_disk):
    with full_disk(100), pytest.raises(OSError) as caught:
        write_doubling(tmp_path, 1)
    assert caught.value.errno == errno.EFBIG and "/.1." in caught.value.filename
    assert list(tmp_path.iterdir()) == []


def test_version_written_by_another_process(tmp_path):
    (tmp_path / "1").mkdir()
    with pytest.raises(OSError, match="1 already exists and is not overwritten"):
        write_doubling(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["1"]


KILLED = """
import os, signal, sys
import tensorflow as tf
from tfmoe.serving.signatures import Signature
from tfmoe.serving import saved_model as export
save = tf.saved_model.save
def save_and_die(*args, **kwargs):
    save(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)
tf.saved_model.save = save_and_die
double = Signature(lambda x: {"y": 2 * x}, [tf.TensorSpec([], tf.float32, "x")], "doubles")
module, concrete = export.exported_module({"double": double}, "double", {})
export.write_saved_model(sys.argv[1], 1, module, concrete, {})
"""


def test_killed_write_leaves_no_version(tmp_path):
    process = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True)
    assert process.returncode == -signal.SIGKILL
    assert versions(tmp_path) == []
    assert all(path.name.startswith(".1.") for path in tmp_path.iterdir())
    assert len(list(tmp_path.iterdir())) == 1
    assert write_doubling(tmp_path, 2).is_dir()
    assert [path.name for path in tmp_path.iterdir()] == ["2"]


def keras_model(num_experts=4):
    inputs = keras.Input([None, 8])
    x = MoE(num_experts, 4, gate=NoisyTopK(k=2))(inputs)
    x = MoE(8, 4, groups=2, gate=NoisyTopK(k=2))(x)
    x = MoE(8, 4, gate=Batchwise(k=2))(x)
    return keras.Model(inputs, ProjectedLSTM(6, 8, return_sequences=True)(x))


X = np.random.default_rng(0).normal(size=(4, 3, 8)).astype("float32")


def operations(function):
    """The types of operations in a graph and in all functions that it calls."""
    graph = function.graph.as_graph_def()
    inner = (node for inner_function in graph.library.function for node in inner_function.node_def)
    return {node.op for node in (*graph.node, *inner)}


# 128 experts are computed in a loop.
@pytest.mark.parametrize("num_experts", [4, pytest.param(128, marks=pytest.mark.slow)])
def test_keras_models_with_our_layers_export(tmp_path, num_experts):
    model = keras_model(num_experts)
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)
    expected = model(X, training=False).numpy()
    model.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    variables = [tf.identity(v).numpy() for v in loaded._all_variables]
    for _ in range(2):
        np.testing.assert_allclose(loaded.serve(X), expected, atol=1e-6)
    for before, variable in zip(variables, loaded._all_variables, strict=True):
        assert np.array_equal(before, variable.numpy())
    op_types = operations(loaded.signatures["serving_default"])
    assert "ReadVariableOp" in op_types
    assert not [name for name in op_types if "Assign" in name]


def test_metrics_are_measured_by_fit_and_evaluate():
    model = keras_model()
    model.compile("sgd", "mse")
    name = "max_over_mean_load"
    logs = model.evaluate(X, X, verbose=0, return_dict=True)
    assert all(np.isfinite(value) for key, value in logs.items() if key.endswith(name))
    history = model.fit(X, X, verbose=0).history
    assert all(np.isfinite(value) for key, value in history.items() if key.endswith(name))
