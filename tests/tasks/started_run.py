"""A run's folder before its first training step."""

from tfmoe.config import build_model, build_optimizer, dump_config
from tfmoe.tasks import task_of
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import TrainingState


def started_run(config, path, vocabulary):
    """Writes a run with its last weights, but without best weights. Returns its `RunDirectory`,
    the built model, and its `TrainingState`.
    """
    run = RunDirectory(path)
    vocabulary.save(task_of(config).vocabulary_file(run))
    run.write_json(run.facts, {"vocabulary": vocabulary.fingerprint, "text": {}})
    run.config.write_text(dump_config(config))
    model = build_model(config, len(vocabulary))
    model.compile(build_optimizer(config))
    model.build((None, None))
    state = TrainingState(model, run.checkpoints)
    state.save()
    return run, model, state
