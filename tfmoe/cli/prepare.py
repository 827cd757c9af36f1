"""`tfmoe prepare`: everything before training."""

from tfmoe import tasks
from tfmoe.cli import arguments


def prepare(config: arguments.Config, set_: arguments.Set = None):
    """Check a config and its text, write generated text, count words; train no model.

    `tfmoe train` does the same first. Use it to find mistakes, or to write the embedded text,
    before a long run.

    \b
    Examples:
      tfmoe prepare demo/language_model
      tfmoe prepare lm1b/moe-256 --set data.root=/data/1-billion-word-language-modeling-benchmark
    """
    for part, files in tasks.prepare_config(config, set_ or ()).items():
        print(f"{part}: {', '.join(dict.fromkeys(files)) or 'none'}")
