"""`tfmoe prepare`: does everything before training."""

from tfmoe import tasks
from tfmoe.cli import arguments


def prepare(config: arguments.Config, set_: arguments.Set = None):
    """Check a config and its text, generate text if needed, and count words, without training.

    `tfmoe train` does the same first. Use `prepare` to find errors or to generate text before a
    long run.

    \b
    Examples:
      tfmoe prepare demo/language_model
      tfmoe prepare lm1b/moe-256 --set data.root=/data/1-billion-word-language-modeling-benchmark
    """
    for part, files in tasks.prepare_config(config, set_ or ()).items():
        print(f"{part}: {', '.join(dict.fromkeys(files)) or 'none'}")
