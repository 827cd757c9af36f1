"""Loads a trained run from its folder."""

import os
from typing import NamedTuple

from tfmoe import data_pipelines
from tfmoe.config.builders import build_model
from tfmoe.config.loader import load_config
from tfmoe.config.schema import Config
from tfmoe.models import LanguageModel, TranslationModel
from tfmoe.tasks.language_modeling import LanguageTask
from tfmoe.tasks.memory_check import check_weights
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.translation import TranslationTask
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import load_weights


class Run(NamedTuple):
    """A loaded run, see `load_run`.

    Attributes:
        config: its config.
        vocabulary: its vocabulary of words or subwords.
        model: the built model with its weights.
    """

    config: Config
    vocabulary: data_pipelines.Vocabulary | data_pipelines.Subwords
    model: LanguageModel | TranslationModel


def load_vocabulary(
    run: RunDirectory, task: LanguageTask | TranslationTask
) -> data_pipelines.Vocabulary | data_pipelines.Subwords:
    """Loads the vocabulary of a run, and checks that the run was trained with it.

    Args:
        run: a `RunDirectory`.
        task: the task of its config.

    Raises:
        ValueError: if the file has changed since the run was started.
    """
    file = task.vocabulary_file(run)
    vocabulary = task.load_vocabulary(file)
    expected = run.read_facts()["vocabulary"]
    if vocabulary.fingerprint != expected:
        raise ValueError(
            f"{file} is not the vocabulary of this run: its SHA-256 is "
            f"{vocabulary.fingerprint[:12]}…, {run.facts.name} has {expected[:12]}…; restore the "
            "file that the run was started with"
        )
    return vocabulary


def load_run(path: str | os.PathLike, weights: str = "best") -> Run:
    """Loads a trained model from its run's folder.

    Args:
        path: the folder.
        weights: `"best"` (by validation perplexity) or `"last"`.

    Returns:
        A `Run` of config, vocabulary and built model with its weights.

    Raises:
        FileNotFoundError: if the folder has no run, or no weights yet.
        ValueError: if config, vocabulary and weights do not match.
    """
    run = RunDirectory(path)
    run.check()
    config = load_config(run.config)
    vocabulary = load_vocabulary(run, task_of(config))
    check_weights(config, len(vocabulary), run.checkpoints)
    model = build_model(config, len(vocabulary))
    model.build((None, None))
    load_weights(model, run.checkpoints, weights)
    return Run(config, vocabulary, model)
