"""`tfmoe prepare`: everything before training."""

from tfmoe.cli import arguments
from tfmoe.tasks.tensorflow_import import import_tensorflow


def prepare(config: arguments.Config, set_: arguments.Set = None):
    """Check a config and its text, write generated text, count words; train no model.

    `tfmoe train` does the same first. Use it to find mistakes, or to write the embedded text,
    before a long run.

    \b
    Examples:
      tfmoe prepare demo/language_model
      tfmoe prepare lm1b/moe-256 --set data.root=/data/1-billion-word-language-modeling-benchmark
    """
    import_tensorflow()
    from tfmoe.cli.train import describe_model, prepare_data
    from tfmoe.config import build_model, load_config
    from tfmoe.tasks import task_of

    task = task_of(load_config(config, set_ or ()))
    vocabulary = prepare_data(task)
    describe_model(task, build_model(task.config, len(vocabulary)), vocabulary)
    for part in ("train", "valid", "test"):
        files = task.corpus_statistics().get(part, {"files": []})["files"]
        print(f"{part}: {', '.join(dict.fromkeys(files)) or 'none'}")
