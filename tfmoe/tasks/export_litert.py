"""Exports a trained run for LiteRT."""

import os
import pathlib

from tfmoe.serving.litert_files import load_litert, write_litert
from tfmoe.tasks.export_portable import Runtime, export_portable

RUNTIME = Runtime(
    name="LiteRT",
    packages=(),
    write=write_litert,
    load=load_litert,
    runs_in="LiteRT",
    client="python docs/serving/portable_client.py",
)


def export_litert(path: pathlib.Path, out: str | os.PathLike, weights: str) -> str:
    """Exports the model of a run for LiteRT. Arguments, result and errors: see
    `tfmoe.tasks.export_portable.export_portable`.
    """
    return export_portable(path, out, weights, "litert", RUNTIME)
