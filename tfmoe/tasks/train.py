"""Training a run from a config, from its text to its result."""

import platform
import time

import keras
import tensorflow as tf

from tfmoe import __version__
from tfmoe.analysis.operations import describe
from tfmoe.analysis.variables import GraphBuild
from tfmoe.config.builders import build_model, build_optimizer, build_strategy
from tfmoe.config.loader import dump_config, load_config
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.distribute import (
    is_first_worker,
    stopping_when_a_worker_is_gone,
    wait_for_workers,
)
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.inspection.summaries import ExpertSummaries, has_all_experts
from tfmoe.tasks.describe import costs_of
from tfmoe.tasks.memory_check import check_blocks, check_training
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.resume import check_folder, check_text, restore
from tfmoe.tasks.runs import load_vocabulary
from tfmoe.training.callbacks import History, Progress, SaveState, StopWhenStuck, Throughput
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import only_one_training
from tfmoe.training.state import TrainingState, load_weights


def train_config(name, overrides, run_dir, resume=False):
    """Trains the model of a config; see `train_run`.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: of `--set`.
        run_dir, resume: as for `train_run`.

    Returns:
        A summary of the result; `None` on all workers of a cluster but the first.
    """
    config = load_config(name, overrides)
    result = train_run(config, run_dir, resume)
    return None if result is None else summary(task_of(config), result)


def train_run(config, run_dir, resume=False, callbacks=()):
    """Trains a model and evaluates its best weights.

    Args:
        config: a `Config`.
        run_dir: the run's folder.
        resume: whether to resume a run that is there; if there is none yet, it begins.
        callbacks: more Keras callbacks of `fit`.

    Returns:
        What is written to `result.json`, see `finish`; `None` on all workers of a cluster but the
        first, which writes everything.

    Raises:
        FileExistsError: if the folder has a run, and `resume` is false.
        BlockingIOError: if another process trains there.
        OSError: if a file cannot be written. The last saved state is kept.
        ValueError: if text, vocabulary, config or checkpoint cannot be used.
        FloatingPointError: if the loss is not finite any more.
        ConnectionError: if another worker of a cluster is gone.
    """
    with stopping_when_a_worker_is_gone(), full_disk_named(run_dir):
        strategy = build_strategy(config)
        if not is_first_worker(strategy):  # the first one's lock is that of all
            return train_on(strategy, config, run_dir, resume, callbacks)
        with only_one_training(run_dir):
            return train_on(strategy, config, run_dir, resume, callbacks)


def train_on(strategy, config, run_dir, resume, callbacks):
    """`train_run` on the devices of a strategy."""
    run = RunDirectory(run_dir)
    check_folder(config, run, resume)
    begun_before = run.begun()
    built = check_blocks(config, strategy)
    wait_for_workers(strategy)  # before anything is written that others look for
    task = task_of(config)
    vocabulary = prepare_data(task, run, begun_before, writes=is_first_worker(strategy))

    keras.utils.set_random_seed(config.training.seed)
    with strategy.scope():
        model = build_model(config, len(vocabulary))
        if built.layer.vocabulary_size != len(vocabulary):
            built = GraphBuild(model)
        counts = describe_model(task, model, vocabulary, built)
        text = task.corpus_statistics()["train"]
        check_training(config, built, strategy, text["words"] + text["sentences"])
        model.compile(build_optimizer(config), jit_compile=config.training.jit_compile)
        model.build((None, None))
    steps = config.training.steps_per_epoch or task.batches_per_epoch(vocabulary)
    state = TrainingState(model, run.checkpoints)
    if begun_before:
        restore(state, config, run, steps)
    callbacks = [*callbacks_of(task, run, model, vocabulary, state), *callbacks]
    if is_first_worker(strategy):
        with atomic_write(run.config) as file:  # from here on, there is a run
            file.write(dump_config(config))
    begun = time.perf_counter()
    with task.unchanged_text():
        fit_epochs(task, run, model, vocabulary, state, steps, callbacks)
    return finish(task, run, model, vocabulary, counts, time.perf_counter() - begun)


def callbacks_of(task, run, model, vocabulary, state):
    """The Keras callbacks of a run; those that show or write something on the first worker only."""
    training, distribute = task.config.training, task.config.distribute
    callbacks = [Throughput(state), SaveState(state, every_steps=training.checkpoint_every_steps)]
    if distribute.name == "cluster":
        callbacks.append(StopWhenStuck(distribute.step_timeout_seconds))
    if is_first_worker(model.distribute_strategy):
        callbacks[1:1] = [Progress(training.epochs), History(run)]
        callbacks.append(keras.callbacks.TensorBoard(run.logs, write_graph=False))
        callbacks.append(expert_summaries(task, run, model, vocabulary))
    return callbacks


def fit_epochs(task, run, model, vocabulary, state, steps, callbacks):
    """Trains from the restored state to the last epoch; of an epoch that is half done, its rest
    first.

    Args:
        task, run, model, vocabulary: of the training.
        state: its `TrainingState`.
        steps: batches of an epoch.
        callbacks: of `fit`.
    """
    training = task.config.training
    is_first = is_first_worker(model.distribute_strategy)
    validation = task.validation_batches(vocabulary)
    if validation is not None and training.validation_batches:
        validation = validation.take(training.validation_batches)

    def fit(first_epoch, epochs, steps_per_epoch):
        model.fit(
            task.training_batches(vocabulary, start_batch=state.step),
            initial_epoch=first_epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation,
            callbacks=callbacks,
            shuffle=False,
            verbose=verbosity() if is_first else 0,
        )

    epoch, epochs = int(state.epoch), training.epochs
    steps_done = state.step - epoch * steps
    if epoch < epochs and is_first:
        run.result.unlink(missing_ok=True)
    if steps_done:  # killed within an epoch
        fit(epoch, epoch + 1, steps - steps_done)
        epoch += 1
    if epoch < epochs:
        fit(epoch, epochs, steps)


def expert_summaries(task, run, model, vocabulary, sentences=200):
    """The callback that writes what the experts do on a sample of the validation text."""
    files, sample = task.splits.valid, ()
    if files and has_all_experts(model):
        sample = task.numbered_batches(vocabulary, files, sentences)
    return ExpertSummaries(run.logs / "experts", sample, vocabulary)


def prepare_data(task, run=None, begun=False, writes=True):
    """Finds or writes the text, reads it to check and count it, and makes or reads the vocabulary.

    Args:
        task: the task of a config.
        run: the `RunDirectory` that keeps the vocabulary, or `None`.
        begun: whether the run was there: then its vocabulary is read, and the text must be what it
            was.
        writes: whether this process is the one that writes to the run's folder.

    Returns:
        The vocabulary.
    """
    print(f"reading {task.config.data.name} …", flush=True)
    text = task.corpus_statistics()
    if begun:
        check_text(run, text)
        return load_vocabulary(run, task)
    vocabulary = task.new_vocabulary()
    if run is not None and writes:
        vocabulary.save(task.vocabulary_file(run))
        facts = {"vocabulary": vocabulary.fingerprint, "text": text, "versions": versions()}
        run.write_json(run.facts, facts)
    return vocabulary


def versions():
    """What a run was trained with."""
    return {
        "tfmoe": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def prepare_config(name, overrides=()):
    """Does all that comes before training: writes generated text, checks and counts the text, makes
    the vocabulary, and prints what would be trained.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: of `--set`.

    Returns:
        `{"train": list of the names of files, …}`.
    """
    task = task_of(load_config(name, overrides))
    vocabulary = prepare_data(task)
    describe_model(task, build_model(task.config, len(vocabulary)), vocabulary)
    text = task.corpus_statistics()
    return {part: text.get(part, {"files": []})["files"] for part in ("train", "valid", "test")}


def describe_model(task, model, vocabulary, built=None):
    """Prints what will be trained on what.

    Args:
        task, model, vocabulary: of the training.
        built: the model's `GraphBuild`; `None` to make one.

    Returns:
        What `tfmoe.analysis.operations.describe` gives.
    """
    for line in task.report(vocabulary):
        print(line)
    counts = describe(model, built)
    print(f"\n{costs_of(task.config, counts)}\n", flush=True)
    return counts


def finish(task, run, model, vocabulary, counts, seconds):
    """Evaluates the best weights on the test text (else the validation text) and writes
    `result.json`. All workers of a cluster must call it.

    Returns:
        Dictionary: what the task's `evaluate` gives, `evaluated_on`, `ops_per_timestep`,
            `parameters`, `words_trained`, `epochs`, `seconds` of training, `seconds_since_start` of
            this process, validation included. `None` on all workers but the first.
    """
    history = run.read_history()
    result = {
        "ops_per_timestep": counts["ops_per_timestep"],
        "parameters": counts["parameters"],
        "words_trained": int(sum(row["words"] for row in history)),
        "epochs": task.config.training.epochs,
        "seconds": sum(row["seconds"] for row in history),
        "seconds_since_start": seconds,
    }
    evaluated_on = "test" if task.splits.test else "valid"
    files = task.splits.test or task.splits.valid
    is_first = is_first_worker(model.distribute_strategy)
    if files:
        load_weights(model, run.checkpoints, "best")
        callbacks, verbose = ([Progress()], verbosity()) if is_first else ([], 0)
        measured = task.evaluate(model, vocabulary, files, callbacks, verbose)
        result = {**measured, "evaluated_on": evaluated_on, **result}
    if not is_first:
        return None
    run.write_json(run.result, result)
    return result


def summary(task, result):
    """One line on a finished run, or more."""
    if "perplexity" not in result:
        return "trained; no valid or test text to evaluate on"
    return f"{result['evaluated_on']}: {task.summary(result)}"
