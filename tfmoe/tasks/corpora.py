"""Finds or generates the text of a config."""

import hashlib
import json
import os
import pathlib

from tfmoe.config.data_schema import corpus_of
from tfmoe.config.schema import Config
from tfmoe.data_pipelines import Splits


def cache_directory():
    """The folder of all generated, converted and prepared text: `$TFMOE_CACHE`, or the folder
    `tfmoe` of `$XDG_CACHE_HOME` or `~/.cache`.
    """
    root = os.environ.get("TFMOE_CACHE")
    if root:
        return pathlib.Path(root)
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(cache) / "tfmoe"


def prepared_directory():
    """The folder of prepared text, shared by all runs: files are found by the text's content."""
    return cache_directory() / "prepared"


def corpus_directory(data):
    """The folder of text that a `data` section generates or converts, shared by all runs that use
    it.

    It is in `cache_directory()`. Its name depends on the settings that determine the text, not on
    vocabulary or batches.
    """
    settings = {"name": data.name, **corpus_of(data).cache_settings()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return cache_directory() / f"{data.name}-{digest}"


def build_splits(config: Config, directory: str | os.PathLike) -> Splits:
    """Finds the text of a config, and generates it first if the corpus is synthetic.

    Args:
        config: a `Config`.
        directory: folder for generated text. Text that is already there is used again.

    Returns:
        `tfmoe.data_pipelines.Splits`: for a language model, of paths; for a translation model, of
        `tfmoe.data_pipelines.ParallelFiles`, one per direction.

    Raises:
        tfmoe.data_pipelines.TextError: if files are missing.
    """
    return corpus_of(config.data).splits(directory)


def find_splits(config: Config) -> Splits:
    """`build_splits` with generated text in `corpus_directory`."""
    return build_splits(config, corpus_directory(config.data))
