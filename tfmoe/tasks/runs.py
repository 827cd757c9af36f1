"""From a run's folder to what is in it."""

from typing import NamedTuple

from tfmoe import data_pipelines
from tfmoe.config.builders import build_model
from tfmoe.config.loader import load_config
from tfmoe.config.schema import Config
from tfmoe.models import LanguageModel, TranslationModel
from tfmoe.tasks.memory_check import check_weights
from tfmoe.tasks.registry import task_of
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import load_weights


class Run(NamedTuple):
    """What a run's folder holds: see `load_run`."""

    config: Config
    vocabulary: data_pipelines.Vocabulary | data_pipelines.Subwords
    model: LanguageModel | TranslationModel


def load_vocabulary(run, task):
    """The vocabulary of a run, checked to be the one it was trained with.

    Args:
        run: a `RunDirectory`.
        task: the task of its config.

    Raises:
        ValueError: if the file is not the one that the run began with.
    """
    file = task.vocabulary_file(run)
    vocabulary = task.load_vocabulary(file)
    expected = run.read_facts()["vocabulary"]
    if vocabulary.fingerprint != expected:
        raise ValueError(
            f"{file} is not the vocabulary of this run: its SHA-256 is "
            f"{vocabulary.fingerprint[:12]}…, {run.facts.name} says {expected[:12]}…; put the file "
            "back that the run began with"
        )
    return vocabulary


def load_run(path, weights="best"):
    """Loads a trained model from its run's folder.

    Args:
        path: the folder.
        weights: `"best"` by validation perplexity, or `"last"`.

    Returns:
        A `Run` of config, vocabulary and built model with its weights.

    Raises:
        FileNotFoundError: if it is no run, or has no weights yet.
        ValueError: if its parts do not fit together.
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
