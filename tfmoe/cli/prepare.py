"""`tfmoe prepare`: does everything before training."""

from tfmoe import tasks
from tfmoe.cli import arguments


def prepare(config: arguments.Config, set_: arguments.Set = None):
    """Check a config and its text, generate text if needed, and write it as ids into the cache,
    without training.

    `tfmoe train` does the same first, if it was not done. Use `prepare` to find errors before a
    long run, to see the size of the prepared text, and to check its files.

    \b
    Examples:
      tfmoe prepare demo/language_model
      tfmoe prepare lm1b/moe-256 --set data.root=/data/1-billion-word-language-modeling-benchmark
    """
    for part, files in tasks.prepare_config(config, set_ or ()).items():
        print(f"{part}: {', '.join(dict.fromkeys(files)) or 'none'}")
