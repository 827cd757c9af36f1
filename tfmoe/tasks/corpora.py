"""Where the text of a config is."""

import hashlib
import json
import os
import pathlib

from tfmoe.tasks.language_data import build_splits
from tfmoe.tasks.translation_data import build_parallel_splits

# Keys of `data` that say how text is used, not what it is.
OF_USE = {"vocabulary", "batch_tokens", "batch_words", "max_length", "shuffle_buffer"}


def corpus_directory(data):
    """Where the generated text of a `data` section lies, shared by all runs that use it.

    A folder of `$TFMOE_CACHE`, or of `tfmoe` in `$XDG_CACHE_HOME` or `~/.cache`, named by the
    section's settings.
    """
    root = os.environ.get("TFMOE_CACHE")
    if not root:
        cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
        root = pathlib.Path(cache) / "tfmoe"
    settings = json.dumps(data.model_dump(exclude=OF_USE), sort_keys=True)
    digest = hashlib.sha256(settings.encode()).hexdigest()[:12]
    return pathlib.Path(root) / f"{data.name}-{digest}"


def find_splits(config):
    """The text files of a config; generated text is written if it is not there yet.

    Returns:
        `data_pipelines.Splits`: of paths for a language model, of `data_pipelines.ParallelFiles`,
        one for each direction, for translation.
    """
    build = build_parallel_splits if config.model.name == "translation" else build_splits
    return build(config, corpus_directory(config.data))
