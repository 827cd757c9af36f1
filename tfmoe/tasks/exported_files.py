"""What exports of all formats say about their files."""

import pathlib

import keras

from tfmoe.data_pipelines import END, START, UNKNOWN
from tfmoe.serving.exported import remove_evaluation_capacity
from tfmoe.serving.saved_model import software
from tfmoe.tasks.registry import task_of
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import saved_step


def megabytes(folder: pathlib.Path) -> float:
    """The total size of the files in a folder, in megabytes.

    Args:
        folder: of an export.
    """
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def ids_of(vocabulary, file):
    """What a client must know of the ids of a `Vocabulary` or of `Subwords`, for the manifest.

    Args:
        vocabulary: the `Vocabulary` or `Subwords`.
        file: the name of its file in the export.
    """
    languages = getattr(vocabulary, "languages", [])
    return {
        "file": file,
        "size": len(vocabulary),
        "end": END,  # and padding
        "start": START,
        "unknown": UNKNOWN,
        "languages": {name: vocabulary.language_id(name) for name in languages},
    }


def without_capacity(model: keras.Model, path: pathlib.Path, weights: str):
    """Prints what is exported, and removes the capacities of evaluation, by name.

    Args:
        model: the model, which is changed.
        path: the run's folder.
        weights: `"best"` or `"last"`.
    """
    print(f"exporting the {weights} weights of {path}")
    for name in remove_evaluation_capacity(model):
        print(f"{name}: evaluation_capacity_factor is ignored: its experts take all tokens")


def facts_of(path: pathlib.Path, config, vocabulary, weights: str, stored: str = "float32") -> dict:
    """What the manifest of any format says of a run.

    Args:
        path: the run's folder.
        config: its config.
        vocabulary: its `Vocabulary` or `Subwords`.
        weights: `"best"` or `"last"`.
        stored: the type of the stored weights.
    """
    directory = RunDirectory(path)
    return {
        "model": config.model.name,
        "run": path.resolve().name,
        "made_with": software(),
        "weights": {
            "which": weights,
            "step": saved_step(directory.checkpoints, weights),
            "type": stored,
        },
        "vocabulary": ids_of(vocabulary, task_of(config).vocabulary_file(directory).name),
        "metrics": {"of_weights": "best", **directory.read_result()},
        "config": directory.config.read_text(encoding="utf-8"),
    }
