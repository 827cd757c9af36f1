"""SavedModels with a manifest, in numbered folders for TensorFlow Serving."""

import contextlib
import hashlib
import json
import os
import pathlib
import subprocess

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tfmoe
from tfmoe.data_pipelines import Subwords, Vocabulary
from tfmoe.data_pipelines.atomic_write import atomic_folder, remove_leftovers
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.serving.signatures import Signature

MANIFEST = "manifest.json"


def versions(folder: str | os.PathLike) -> list[int]:
    """The version numbers in a folder, in ascending order; empty if there is no folder."""
    folder = pathlib.Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def checked_version(folder: str | os.PathLike, version: int | None = None) -> int:
    """Checks or chooses the number of a new version.

    Args:
        folder: the folder of all versions, which need not exist.
        version: the number of the new version; `None` for the next one.

    Raises:
        ValueError: if the number is below 1, exceeds the maximum of TensorFlow Serving, or exists
            already, or if `folder` is a file.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder for numbered versions")
    existing = versions(folder)
    if version is None:
        return max(existing, default=0) + 1
    if not 1 <= version < 2**63:
        raise ValueError(f"the version must be from 1 to 2^63 - 1, got {version}")
    if version in existing:
        raise ValueError(
            f"{folder / str(version)} already exists and is not overwritten; the next free version "
            f"is {max(existing) + 1}"
        )
    return version


def exported_module(
    signatures: dict[str, Signature], default: str, resources: dict
) -> tuple[tf.Module, dict]:
    """Creates the module to save and its concrete functions.

    Args:
        signatures: `{name: tfmoe.serving.signatures.Signature}`.
        default: name of the signature that is also exported as `serving_default`.
        resources: `{name: trackable object or list of them}` used by the functions.

    Returns:
        A `tf.Module` with the functions and resources as attributes, and `{name: concrete
        function}`.
    """
    module = tf.Module()
    for name, resource in resources.items():
        setattr(module, name, resource)
    concrete = {}
    for name, signature in signatures.items():
        function = tf.function(
            signature.function, input_signature=signature.inputs, autograph=False
        )
        setattr(module, name, function)
        concrete[name] = function.get_concrete_function()
    return module, {"serving_default": concrete[default], **concrete}


def describe_signatures(signatures: dict[str, Signature], concrete: dict) -> dict[str, dict]:
    """Describes signatures for the manifest.

    Args:
        signatures: the argument of `exported_module`.
        concrete: the concrete functions that `exported_module` returns.

    Returns:
        `{name: {"description", "inputs", "outputs"}}`, with dtype and shape of each tensor:
        `"float32 [?, ?]"`.
    """

    def dtype_and_shape(spec):
        shape = ", ".join("?" if size is None else str(size) for size in spec.shape)
        return f"{spec.dtype.name} [{shape}]"

    return {
        name: {
            "description": signature.description,
            "inputs": {spec.name: dtype_and_shape(spec) for spec in signature.inputs},
            "outputs": {
                key: dtype_and_shape(tensor)
                for key, tensor in concrete[name].structured_outputs.items()
            },
        }
        for name, signature in signatures.items()
    }


def write_saved_model(
    folder: str | os.PathLike,
    version: int,
    module: tf.Module,
    concrete: dict,
    facts: dict,
    vocabulary: Vocabulary | Subwords | None = None,
) -> pathlib.Path:
    """Writes a version, the SavedModel and `manifest.json`, completely or not at all.

    Args:
        folder: the folder of all versions, created if missing.
        version: number of the new version.
        module: the module that `exported_module` returns.
        concrete: the concrete functions that `exported_module` returns.
        facts: contents of the manifest. The SHA-256 digests of all other files are added as
            `"files"`.
        vocabulary: the vocabulary to write as `facts["vocabulary"]["file"]`; `None` for none.

    Returns:
        The path of the version.

    Raises:
        OSError: if a file cannot be written, or another process has written this version.
    """
    folder = pathlib.Path(folder)
    remove_leftovers(folder)  # of all versions
    target = folder / str(version)
    # The name of the temporary folder is not a number: servers ignore it.
    with atomic_folder(target) as temporary, full_disk_named(target):
        write_files(temporary, module, concrete, facts, vocabulary)
    return target


def write_files(folder, module, concrete, facts, vocabulary=None):
    """Writes a SavedModel and its manifest to a folder. Arguments: see `write_saved_model`."""
    save(module, concrete, folder)
    if vocabulary is not None:
        vocabulary.save(folder / facts["vocabulary"]["file"])
    write_manifest(folder, facts)


def write_manifest(folder: pathlib.Path, facts: dict):
    """Writes `manifest.json` with facts, and the SHA-256 digests of all other files of a folder as
    `"files"`.
    """
    files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({**facts, "files": files}, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def save(module, concrete, folder):
    """Writes a SavedModel without gradients to a folder.

    Args:
        module: a `tf.Module`.
        concrete: `{name of a signature: concrete function}`.
        folder: its path.
    """
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=concrete, options=options)
    remove_gradient_names(pathlib.Path(folder) / "saved_model.pb")


def remove_gradient_names(path):
    """Removes the names of custom gradients from a SavedModel.

    The gradients themselves are not saved, and loading would print a warning for each name.

    Args:
        path: path of `saved_model.pb`.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in (meta_graph.graph_def for meta_graph in saved.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                node.attr.pop("_gradient_op_type", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def software() -> dict[str, str]:
    """The versions of tfmoe, TensorFlow and Keras, and the commit if tfmoe is a git checkout."""
    result = {"tfmoe": tfmoe.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    root = pathlib.Path(tfmoe.__file__).parents[1]
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            result["commit"] = subprocess.run(
                ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
    return result


def sha256(path: str | os.PathLike) -> str:
    """The SHA-256 digest of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
