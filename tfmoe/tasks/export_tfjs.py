"""Exports a trained run for TensorFlow.js."""

import os
import pathlib

from tfmoe.serving.tfjs_files import load_tfjs, write_tfjs
from tfmoe.tasks.export_portable import Runtime, export_portable

RUNTIME = Runtime(
    name="TensorFlow.js",
    packages=(),
    write=write_tfjs,
    load=load_tfjs,
    runs_in="the written files in TensorFlow",
    client="node docs/serving/tfjs_client.js",
)


def export_tfjs(path: pathlib.Path, out: str | os.PathLike, weights: str) -> str:
    """Exports the model of a run for TensorFlow.js. Arguments, result and errors: see
    `tfmoe.tasks.export_portable.export_portable`.
    """
    return export_portable(path, out, weights, "tfjs", RUNTIME)
