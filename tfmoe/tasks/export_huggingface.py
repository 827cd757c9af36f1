"""Exports a trained run as a checkpoint for Hugging Face Transformers."""

import json
import os
import pathlib
import shlex

from tfmoe import extras
from tfmoe.data_pipelines import END, START
from tfmoe.data_pipelines.atomic_write import atomic_folder, check_absent
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.huggingface import write_model
from tfmoe.tasks.exported_files import megabytes
from tfmoe.tasks.runs import load_run

VOCABULARY = "vocabulary.txt"


def export_huggingface(path: pathlib.Path, out: str | os.PathLike, weights: str) -> str:
    """Exports the model of a run as a checkpoint, with the vocabulary in a file beside it.

    Args:
        path: the run's folder.
        out: the folder to write, which must not exist.
        weights: `"best"` or `"last"`.

    Returns:
        Text that says what was written and how to try it.

    Raises:
        FileNotFoundError: if the folder has no run.
        FileExistsError: if the folder to write exists.
        tfmoe.extras.MissingExtra: without the package safetensors.
        ValueError: if the run is not of a language model that the format can hold.
    """
    extras.require("safetensors")  # before the run is loaded
    out = pathlib.Path(out)
    check_absent(out)
    config, vocabulary, model = load_run(path, weights)
    print(f"exporting the {weights} weights of {path}")
    more = {
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
        "max_position_embeddings": config.data.max_length,
    }
    with atomic_folder(out) as folder, full_disk_named(out):
        write_model(model, folder, more=more)
        vocabulary.save(folder / VOCABULARY)
    return "\n".join(
        [
            f"{out}: a checkpoint for Transformers; {megabytes(out):.1f} MB",
            f"{out / VOCABULARY}: the words; the number of a line, from 0, is the id",
            "Try it:",
            f"  {example_command(out)}",
        ]
    )


def example_command(path):
    """A command that loads the checkpoint.

    Args:
        path: its folder.
    """
    code = (
        "from transformers import AutoModelForCausalLM; "
        f"print(AutoModelForCausalLM.from_pretrained({json.dumps(str(path))}))"
    )
    return f"python -c {shlex.quote(code)}"
