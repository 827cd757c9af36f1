"""Exports a trained run in one of the formats of `FORMATS`."""

import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tfmoe.tasks.export_huggingface import export_huggingface
from tfmoe.tasks.export_litert import export_litert
from tfmoe.tasks.export_onnx import export_onnx
from tfmoe.tasks.export_saved_model import export_saved_model
from tfmoe.tasks.export_tfjs import export_tfjs


class Format(NamedTuple):
    """A format of exports.

    Attributes:
        export: a function of the run's folder, the output folder, `"best"` or `"last"`, and the
            options that were given. It returns text that says what was written and how to try it.
        options: names of the options that it takes.
    """

    export: Callable[..., str]
    options: tuple[str, ...] = ()


FORMATS = {
    "savedmodel": Format(
        export_saved_model, ("version", "half", "int8", "tokenization", "top", "beam", "nbest")
    ),
    "onnx": Format(export_onnx),
    "litert": Format(export_litert),
    "tfjs": Format(export_tfjs),
    "huggingface": Format(export_huggingface),
}


def export_run(
    path: pathlib.Path,
    out: str | os.PathLike,
    version: int | None = None,
    weights: str = "best",
    half: bool = False,
    int8: bool = False,
    options: Mapping[str, Any] | None = None,
    format: str = "savedmodel",
) -> str:
    """Exports the model of a run.

    Args:
        path: the run's folder.
        out: the folder to write: of numbered versions for a SavedModel, of one export for the other
            formats.
        version: the version of a SavedModel to write; `None` for the one after the last.
        weights: `"best"` or `"last"`.
        half: whether a SavedModel stores large weights as bfloat16.
        int8: whether it stores them as int8 with scales.
        options: `{name: value}` for `tokenization`, `top`, `beam` and `nbest` of a SavedModel; the
            value `None` is the default.
        format: `"savedmodel"`; `"onnx"`, `"litert"` or `"tfjs"` for functions on ids; or
            `"huggingface"` for a checkpoint of Mixtral or Qwen3-MoE.

    Returns:
        Text that says what was written and how to try it.

    Raises:
        FileNotFoundError: if the folder has no run.
        FileExistsError: if the folder exists and is not one of numbered versions.
        tfmoe.extras.MissingExtra: if the format needs a package that is not installed.
        ValueError: if the version exists, an option is for another kind of model or another format,
            the answers of the model depend on the batch, or the format cannot hold the model.
    """
    if format not in FORMATS:
        raise ValueError(f"--format must be one of {', '.join(FORMATS)}, got {format!r}")
    given = {"version": version, "half": half or None, "int8": int8 or None, **(options or {})}
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in FORMATS[format].options:
            takers = ", ".join(other for other in FORMATS if name in FORMATS[other].options)
            raise ValueError(
                f"--{name} must be left out with --format {format}, got {value}: "
                f"it is for --format {takers}"
            )
    return FORMATS[format].export(path, out, weights, **given)
