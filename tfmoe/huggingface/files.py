"""Files of tensors: `model.safetensors`, or several with `model.safetensors.index.json`.

Tensors are read one at a time from memory-mapped files.
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tfmoe.extras import optional
from tfmoe.huggingface.configuration import CONFIG

safetensors = optional("safetensors")
safetensors_numpy = optional("safetensors.numpy")

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
# The types of safetensors that are read and written.
DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TensorFiles:
    """The tensors of a checkpoint. A context manager, which opens all files.

    Args:
        folder: of the checkpoint.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder
        self._stack = contextlib.ExitStack()
        self._handles: dict = {}

    def __enter__(self):
        with self._stack:
            for name in self._file_names():
                file = self.folder / name
                handle = self._stack.enter_context(opened(file))
                self._handles |= dict.fromkeys(handle.keys(), (file, handle))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exception):
        self._stack.close()

    def _file_names(self):
        index = self.folder / INDEX
        if not index.exists():
            return [SINGLE]
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise ValueError(f"{index} has no mapping weight_map: {error!r}") from None
        for name in names:
            if not isinstance(name, str):
                raise ValueError(f"{index}: weight_map must have names of files, got {name!r}")
        return sorted(names)

    def check(self, shapes: Mapping[str, tuple[int, ...]], ignored: Iterable[str] = ()):
        """Checks that the checkpoint has these tensors and no others, without reading them.

        Args:
            shapes: `{name: shape}`.
            ignored: endings of names of other tensors.

        Raises:
            ValueError: if a tensor is missing, unexpected, or has another shape or an integer type.
        """
        missing = [name for name in shapes if name not in self._handles]
        if missing:
            raise ValueError(f"{self.folder} has no tensor {missing[0]} ({len(missing)} missing)")
        for name, (file, handle) in self._handles.items():
            if name not in shapes:
                if name.endswith(tuple(ignored)):
                    continue
                raise ValueError(f"{file}: tensor {name} is not part of the model of config.json")
            tensor = handle.get_slice(name)
            shape, dtype = tuple(tensor.get_shape()), tensor.get_dtype()
            if shape != tuple(shapes[name]):
                raise ValueError(
                    f"{file}: tensor {name} must have the shape {list(shapes[name])} by "
                    f"config.json, got {list(shape)}"
                )
            if dtype not in DTYPES:
                raise ValueError(
                    f"{file}: tensor {name} must have one of the types {', '.join(DTYPES)}, got "
                    f"{dtype}"
                )

    def read(self, name: str) -> np.ndarray:
        """Reads a tensor.

        Args:
            name: of the tensor.
        """
        return self._handles[name][1].get_tensor(name)


def opened(file):
    """Opens a file of tensors, a context manager.

    Raises:
        FileNotFoundError: if it is missing.
        ValueError: if it is damaged.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} does not exist")
    try:
        return safetensors.safe_open(file, framework="np")
    except safetensors.SafetensorError as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def write_tensors(
    folder: pathlib.Path,
    sizes: Mapping[str, int],
    tensors: Iterator[tuple[str, np.ndarray]],
    max_file_bytes: int,
):
    """Writes the files of a checkpoint. One file is in memory at a time.

    Args:
        folder: of the checkpoint, with `config.json`.
        sizes: `{name: bytes}` of all tensors, in order.
        tensors: the names and values, in the same order.
        max_file_bytes: the maximum size of a file with more than one tensor.

    Raises:
        OSError: if a file cannot be written.
    """
    files = grouped(sizes, max_file_bytes)
    names = [SINGLE]
    if len(files) > 1:
        total = len(files)
        names = [f"model-{i:05}-of-{total:05}.safetensors" for i in range(1, total + 1)]
    for file_name, group in zip(names, files, strict=True):
        values = dict(next(tensors) for _ in group)
        try:
            safetensors_numpy.save_file(values, folder / file_name, metadata={"format": "pt"})
        except safetensors.SafetensorError as error:
            raise os_error(error, file_name) from None
        shutil.copymode(folder / CONFIG, folder / file_name)  # safetensors lets only the user read
    if len(files) > 1:
        weight_map = {
            tensor: name for name, group in zip(names, files, strict=True) for tensor in group
        }
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def os_error(error, file_name):
    """The `OSError` of a `SafetensorError` about a file that cannot be written. Its text has the
    code of the operating system: `(os error 28)`, or `code: 28` in old versions.
    """
    code = re.search(r"(?:os error|code:) (\d+)", str(error))
    if code is None:
        return OSError(f"{file_name} cannot be written: {error}")
    return OSError(int(code[1]), os.strerror(int(code[1])))


def grouped(sizes, max_bytes):
    """Divides names into lists of at most `max_bytes`, or of one name.

    Args:
        sizes: `{name: bytes}`.
        max_bytes: the limit.
    """
    groups: list[list[str]] = []
    remaining = 0
    for name, size in sizes.items():
        if not groups or size > remaining:
            groups.append([])
            remaining = max_bytes
        groups[-1].append(name)
        remaining -= size
    return groups
