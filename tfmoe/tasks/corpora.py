"""Where the text of a config is."""

import hashlib
import json
import os
import pathlib

from tfmoe.config.data_schema import corpus_of


def corpus_directory(data):
    """Where text that a `data` section generates or converts lies, shared by all runs that use it.

    A folder of `$TFMOE_CACHE`, or of `tfmoe` in `$XDG_CACHE_HOME` or `~/.cache`, named by those
    settings of the corpus that decide on the text, not by how the text is used.
    """
    root = os.environ.get("TFMOE_CACHE")
    if not root:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        root = pathlib.Path(cache) / "tfmoe"
    settings = {"name": data.name, **corpus_of(data).cache_settings()}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
    return pathlib.Path(root) / f"{data.name}-{digest}"


def build_splits(config, directory):
    """The text of a config: found, or written where it is generated.

    Args:
        config: a `Config`.
        directory: where generated text is written, and found again.

    Returns:
        `tfmoe.data_pipelines.Splits`: of paths for a language model, of
        `tfmoe.data_pipelines.ParallelFiles`, one for each direction, for translation.

    Raises:
        tfmoe.data_pipelines.TextError: if files are missing.
    """
    return corpus_of(config.data).splits(directory)


def find_splits(config):
    """The text of a config as `build_splits` gives it, generated text from `corpus_directory`."""
    return build_splits(config, corpus_directory(config.data))
