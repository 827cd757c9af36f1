"""From a run's folder, or a config's data, to what is in it."""

import hashlib
import json
import os
import pathlib
from typing import NamedTuple

import data_pipelines
from tfmoe.config.builders import LANGUAGE_DATA, build_model, build_splits
from tfmoe.config.loader import load_config
from tfmoe.config.schema import Config
from tfmoe.models import LanguageModel
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import load_weights


class Run(NamedTuple):
    """What a run's folder holds: see `load_run`."""

    config: Config
    vocabulary: data_pipelines.Vocabulary
    model: LanguageModel


def corpus_directory(data):
    """Where the generated text of a `data` section lies, shared by all runs that use it.

    A folder of `$TFMOE_CACHE`, or of `tfmoe` in `$XDG_CACHE_HOME` or `~/.cache`, named by the
    section's settings.
    """
    root = os.environ.get("TFMOE_CACHE")
    if not root:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        root = pathlib.Path(cache) / "tfmoe"
    settings = json.dumps(data.model_dump(exclude=set(LANGUAGE_DATA)), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return pathlib.Path(root) / f"{data.name}-{digest}"


def find_splits(config):
    """The text files of a config; generated text is written if it is not there yet."""
    return build_splits(config, corpus_directory(config.data))


def load_vocabulary(run):
    """The vocabulary of a run, checked to be the one it was trained with.

    Args:
        run: a `RunDirectory`.

    Raises:
        ValueError: if the file is not the one that the run began with.
    """
    vocabulary = data_pipelines.Vocabulary.load(run.vocabulary)
    expected = run.read_facts()["vocabulary"]
    if vocabulary.fingerprint != expected:
        raise ValueError(
            f"{run.vocabulary} is not the vocabulary of this run: its SHA-256 is "
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
    vocabulary = load_vocabulary(run)
    model = build_model(config, len(vocabulary))
    model.build((None, None))
    load_weights(model, run.checkpoints, weights)
    return Run(config, vocabulary, model)
