"""SavedModels in numbered folders, as TensorFlow Serving reads them, each with a manifest."""

import contextlib
import hashlib
import json
import pathlib
import shutil
import subprocess

import keras
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

import tfmoe
from tfmoe.data_pipelines.atomic_write import remove_leftovers, temporary_name
from tfmoe.distribute.full_disks import full_disk_named

MANIFEST = "manifest.json"


def versions(folder):
    """The numbers of the versions in a folder, rising; none if there is no folder."""
    folder = pathlib.Path(folder)
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isascii() and name.isdecimal())


def checked_version(folder, version=None):
    """The version to write.

    Args:
        folder: of all versions; it need not exist.
        version: the number wanted, or `None` for the one after the last.

    Raises:
        ValueError: if it is under 1, beyond the largest that TensorFlow Serving reads, or there
            already, or the folder is a file.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: name a folder, in which versions are numbered")
    found = versions(folder)
    if version is None:
        return max(found, default=0) + 1
    if not 1 <= version < 2**63:
        raise ValueError(f"the version must be from 1 to 2^63 - 1, got {version}")
    if version in found:
        raise ValueError(
            f"{folder / str(version)} is there already, and is not overwritten; the next free "
            f"version is {max(found) + 1}"
        )
    return version


def exported_module(signatures, default, resources):
    """A module to be saved, and its signatures.

    Args:
        signatures: `{name: tfmoe.serving.signatures.Signature}`.
        default: the name of the one to be `serving_default` too.
        resources: `{name: trackable object or list of them}` that the functions use.

    Returns:
        A `tf.Module` with the functions and resources as attributes; `{name: concrete function}`.
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


def described(signatures, concrete):
    """What a manifest says of signatures: `{name: {"description", "inputs", "outputs"}}`, tensors
    as type and shape, `"float32 [?, ?]"`.

    Args:
        signatures, concrete: as for, and as from, `exported_module`.
    """

    def written(spec):
        shape = ", ".join("?" if size is None else str(size) for size in spec.shape)
        return f"{spec.dtype.name} [{shape}]"

    return {
        name: {
            "description": signature.description,
            "inputs": {spec.name: written(spec) for spec in signature.inputs},
            "outputs": {
                key: written(tensor) for key, tensor in concrete[name].structured_outputs.items()
            },
        }
        for name, signature in signatures.items()
    }


def write_saved_model(folder, version, module, concrete, facts):
    """Writes a version: the SavedModel and `manifest.json`. It is there in full or not at all.

    Args:
        folder: of all versions; made if missing.
        version: its number, not there yet.
        module, concrete: as from `exported_module`.
        facts: dictionary for the manifest, to which the SHA-256 of every other file is added as
            `"files"`.

    Returns:
        The path of the version.

    Raises:
        OSError: if it cannot be written, or another process wrote this version meanwhile.
    """
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / str(version)
    temporary = temporary_name(target)  # not a number: no server loads it
    remove_leftovers(folder)
    try:
        with full_disk_named(target):
            fill(temporary, module, concrete, facts)
        if target.exists():  # an empty folder would be replaced
            raise FileExistsError(f"{target} is there already, and is not overwritten")
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def fill(folder, module, concrete, facts):
    """Writes a SavedModel and its manifest into a folder; arguments as for `write_saved_model`."""
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, str(folder), signatures=concrete, options=options)
    forget_gradients(folder / "saved_model.pb")
    files = {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    text = json.dumps({**facts, "files": files}, indent=1, ensure_ascii=False) + "\n"
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def forget_gradients(path):
    """Takes the names of custom gradients, which are not saved, out of a SavedModel: loading it
    would warn of each.

    Args:
        path: of `saved_model.pb`.
    """
    saved = saved_model_pb2.SavedModel.FromString(path.read_bytes())
    for graph in (each.graph_def for each in saved.meta_graphs):
        for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
            for node in nodes:
                node.attr.pop("_gradient_op_type", None)
    path.write_bytes(saved.SerializeToString(deterministic=True))


def software():
    """Versions of what an export was made with, and the commit if tfmoe is in a git checkout."""
    found = {"tfmoe": tfmoe.__version__, "tensorflow": tf.__version__, "keras": keras.__version__}
    root = pathlib.Path(tfmoe.__file__).parents[1]
    if (root / ".git").exists():
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            found["commit"] = subprocess.run(
                ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                cwd=root,
                capture_output=True,
                text=True,
                check=True,
            ).stdout.strip()
    return found


def sha256(path):
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
