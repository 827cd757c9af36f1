"""Exports a trained run as functions on ids, for runtimes other than TensorFlow."""

import os
import pathlib
import shlex
from collections.abc import Callable
from typing import NamedTuple

from tfmoe import extras
from tfmoe.config.builders import build_model
from tfmoe.data_pipelines import UNKNOWN
from tfmoe.data_pipelines.atomic_write import atomic_folder, check_absent
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.serving.exported import check_exportable, remove_evaluation_capacity
from tfmoe.serving.portable import described, largest_difference, traced
from tfmoe.serving.saved_model import MANIFEST, write_manifest
from tfmoe.tasks.exported_files import facts_of, megabytes, without_capacity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run


class Runtime(NamedTuple):
    """How functions are written for a runtime.

    Attributes:
        name: for messages.
        packages: the packages of `tfmoe.extras` that an export needs.
        write: a function of a folder and `{name: tf.function}` that writes the files.
        load: a function of a folder and a list of names that loads the files again:
            `{name: function}`.
        runs_in: the program that computes what `load` returns, for messages.
        client: the program in `docs/serving` that calls the files.
    """

    name: str
    packages: tuple[str, ...]
    write: Callable
    load: Callable
    runs_in: str
    client: str


def export_portable(
    path: pathlib.Path, out: str | os.PathLike, weights: str, format: str, runtime: Runtime
) -> str:
    """Exports the model of a run: its functions on ids, the vocabulary, and a manifest.

    The files are loaded again and compared with the model, before the folder appears.

    Args:
        path: the run's folder.
        out: the folder to write, which must not exist.
        weights: `"best"` or `"last"`.
        format: the format's name, for the manifest.
        runtime: the `Runtime`.

    Returns:
        Text that says what was written and how to try it.

    Raises:
        FileNotFoundError: if the folder has no run.
        FileExistsError: if the folder to write exists.
        tfmoe.extras.MissingExtra: if a package is missing.
        ValueError: if the answers of the model depend on the batch, or the format cannot hold the
            model.
    """
    extras.require(*runtime.packages)  # before the run is loaded
    out = pathlib.Path(out)
    check_absent(out)
    config, vocabulary, model = load_run(path, weights)
    check_exportable(model)
    facts = facts_of(path, config, vocabulary, weights)
    without_capacity(model, path, weights)
    task = task_of(config)
    portable = task.portable(in_float32(config, vocabulary, model))
    signatures = portable.signatures()
    print(f"tracing {', '.join(signatures)}")
    functions = traced(signatures)
    facts |= {
        "format": format,
        **described(signatures, functions, portable.states.inputs),
        **portable.facts(),
    }
    with atomic_folder(out) as folder, full_disk_named(out):
        print(f"converting to {runtime.name}")
        runtime.write(folder, functions)
        loaded = runtime.load(folder, list(signatures))
        difference = largest_difference(signatures, loaded, portable.samples())
        print(f"largest difference between Keras and {runtime.runs_in}: {difference:.1e}")
        vocabulary.save(folder / facts["vocabulary"]["file"])
        write_manifest(folder, {**facts, "largest_difference": difference})
    return "\n".join(
        [
            f"{out}: {', '.join(signatures)} for {runtime.name}; {megabytes(out):.1f} MB; "
            f"{out / MANIFEST}",
            "Try it:",
            f"  {runtime.client} {shlex.quote(str(out))} {example(vocabulary, signatures)}",
        ]
    )


def example(vocabulary, signatures):
    """Arguments of a client that call the exported functions."""
    if "score" in signatures:
        words = [vocabulary.word(index) for index in range(UNKNOWN + 1, len(vocabulary))]
        return f"score {shlex.quote(' '.join(words[:3]))}"
    languages = [f" --language {name}" for name in vocabulary.languages]
    return f"translate 'Monday, May 4, 2020'{''.join(languages[:1])}"


def in_float32(config, vocabulary, model):
    """A model that computes in float32, with the weights of a model of the config: some runtimes
    have no other type.
    """
    if config.training.dtype_policy == "float32":
        return model
    training = config.training.model_copy(update={"dtype_policy": "float32"})
    new = build_model(config.model_copy(update={"training": training}), len(vocabulary))
    new.build((None, None))
    new.set_weights(model.get_weights())
    remove_evaluation_capacity(new)
    return new
