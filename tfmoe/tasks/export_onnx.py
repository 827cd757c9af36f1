"""Exports a trained run for ONNX Runtime."""

import os
import pathlib

from tfmoe.serving.onnx_files import load_onnx, write_onnx
from tfmoe.tasks.export_portable import Runtime, export_portable

RUNTIME = Runtime(
    name="ONNX Runtime",
    packages=("onnx", "onnxruntime", "tf2onnx"),
    write=write_onnx,
    load=load_onnx,
    runs_in="ONNX Runtime",
    client="python docs/serving/portable_client.py",
)


def export_onnx(path: pathlib.Path, out: str | os.PathLike, weights: str) -> str:
    """Exports the model of a run for ONNX Runtime. Arguments, result and errors: see
    `tfmoe.tasks.export_portable.export_portable`.
    """
    return export_portable(path, out, weights, "onnx", RUNTIME)
