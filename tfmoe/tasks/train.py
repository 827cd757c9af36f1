"""Trains a run: prepares the text, fits the model, and evaluates it."""

import os
import platform
import time
from collections.abc import Iterable
from typing import Any

import keras
import tensorflow as tf

from tfmoe import __version__
from tfmoe.analysis.operations import describe
from tfmoe.analysis.variables import GraphBuild
from tfmoe.config.builders import build_model, build_optimizer, build_strategy
from tfmoe.config.loader import dump_config, load_config
from tfmoe.config.schema import Config
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.data_pipelines.prepared.order import TRAINING_ORDER
from tfmoe.distribute import (
    distribute_rows,
    is_first_worker,
    stopping_when_a_worker_is_gone,
    wait_for_workers,
)
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.inspection.summaries import ExpertSummaries, has_all_experts
from tfmoe.tasks.describe import cost_table
from tfmoe.tasks.memory_check import check_blocks, check_training
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.resume import check_folder, check_text, restore
from tfmoe.tasks.runs import load_vocabulary
from tfmoe.training.callbacks import History, Progress, SaveState, StopWhenStuck, Throughput
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.run_lock import only_one_training
from tfmoe.training.state import TrainingState, load_weights


def train_config(
    name: str, overrides: Iterable[str], run_dir: str | os.PathLike, resume: bool = False
) -> str | None:
    """Trains the model of a config; see `train_run`.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: values of `--set`.
        run_dir: as for `train_run`.
        resume: as for `train_run`.

    Returns:
        A summary of the result; `None` on all workers of a cluster but the first.
    """
    config = load_config(name, overrides)
    result = train_run(config, run_dir, resume)
    return None if result is None else summary(task_of(config), result)


def train_run(
    config: Config,
    run_dir: str | os.PathLike,
    resume: bool = False,
    callbacks: Iterable[keras.callbacks.Callback] = (),
) -> dict[str, Any] | None:
    """Trains a model and evaluates its best weights.

    Args:
        config: a `Config`.
        run_dir: the run's folder.
        resume: whether to resume the run in the folder. If the folder has none, a run is started.
        callbacks: further Keras callbacks of `fit`.

    Returns:
        The content of `result.json`, see `finish`; `None` on all workers of a cluster but the
        first, which writes all files.

    Raises:
        FileExistsError: if the folder has a run and `resume` is false.
        BlockingIOError: if another process trains in the folder.
        OSError: if a file cannot be written. The last saved state is kept.
        ValueError: if text, vocabulary, config or checkpoint are invalid.
        FloatingPointError: if the loss becomes infinite or NaN.
        ConnectionError: if another worker of the cluster is gone.
    """
    with stopping_when_a_worker_is_gone(), full_disk_named(run_dir):
        strategy = build_strategy(config)
        if not is_first_worker(strategy):  # the first worker holds the lock for all
            return train_on(strategy, config, run_dir, resume, callbacks)
        with only_one_training(run_dir):
            return train_on(strategy, config, run_dir, resume, callbacks)


def train_on(strategy, config, run_dir, resume, callbacks):
    """`train_run` under a strategy."""
    run = RunDirectory(run_dir)
    check_folder(config, run, resume)
    resumed = run.begun()
    built = check_blocks(config, strategy)
    wait_for_workers(strategy)  # the files written below would change what `check_folder` sees
    task = task_of(config)
    vocabulary = prepare_data(task, run, resumed, writes=is_first_worker(strategy))

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
    if resumed:
        restore(state, config, run, steps)
    callbacks = [*callbacks_of(task, run, model, vocabulary, state), *callbacks]
    if is_first_worker(strategy):
        with atomic_write(run.config) as file:  # from now on the folder has a run
            file.write(dump_config(config))
    start = time.perf_counter()
    with task.unchanged_text(), task.training_batches(vocabulary).errors_named():
        fit_epochs(task, run, model, vocabulary, state, steps, callbacks)
    return finish(task, run, model, vocabulary, counts, time.perf_counter() - start)


def callbacks_of(task, run, model, vocabulary, state):
    """The Keras callbacks of a run. Only the first worker has those that print or write files."""
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
    """Trains from the restored state to the last epoch. First finishes an epoch that was
    interrupted.

    Args:
        task, run, model, vocabulary: of the run.
        state: its `TrainingState`.
        steps: batches per epoch.
        callbacks: argument of `fit`.
    """
    training = task.config.training
    is_first = is_first_worker(model.distribute_strategy)
    validation = task.validation_batches(vocabulary)
    if validation is not None and training.validation_batches:
        validation = validation.take(training.validation_batches)

    batches = task.training_batches(vocabulary)

    def fit(first_epoch, epochs, steps_per_epoch):
        start = state.step
        model.fit(
            distribute_rows(
                model.distribute_strategy, lambda *replicas: batches.dataset(start, *replicas)
            ),
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
    if steps_done:  # interrupted within an epoch
        fit(epoch, epoch + 1, steps - steps_done)
        epoch += 1
    if epoch < epochs:
        fit(epoch, epochs, steps)


def expert_summaries(task, run, model, vocabulary, sentences=200):
    """The callback that writes summaries of the experts on a sample of the validation text."""
    files, sample = task.splits.valid, ()
    if files and has_all_experts(model):
        sample = task.numbered_batches(vocabulary, files, sentences)
    return ExpertSummaries(run.logs / "experts", sample, vocabulary)


def prepare_data(task, run=None, resumed=False, writes=True):
    """Finds or generates the text, prepares it unless it is prepared, and builds or loads the
    vocabulary.

    Args:
        task: the task of a config.
        run: the `RunDirectory` that stores the vocabulary, or `None`.
        resumed: whether the run exists: then its vocabulary is loaded, and the text must be
            unchanged.
        writes: whether this process writes to the run's folder.

    Returns:
        The vocabulary.
    """
    print(f"preparing {task.config.data.name} …", flush=True)
    text = task.corpus_statistics()
    if resumed:
        check_text(run, text)
        return load_vocabulary(run, task)
    vocabulary = task.new_vocabulary()
    if run is not None and writes:
        vocabulary.save(task.vocabulary_file(run))
        facts = {
            "vocabulary": vocabulary.fingerprint,
            "text": text,
            "training_order": TRAINING_ORDER,
            "versions": versions(),
        }
        run.write_json(run.facts, facts)
    return vocabulary


def versions():
    """The versions of the software, for `run.json`."""
    return {
        "tfmoe": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def prepare_config(name: str, overrides: Iterable[str] = ()) -> dict[str, list[str]]:
    """Does everything before training: generates text if needed, checks it, writes it as ids into
    the cache, builds the vocabulary, and prints statistics of text and model.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: values of `--set`.

    Returns:
        `{"train": list of paths, …}`.
    """
    task = task_of(load_config(name, overrides))
    vocabulary = prepare_data(task)
    describe_model(task, build_model(task.config, len(vocabulary)), vocabulary)
    folders = task.check_prepared(vocabulary)
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    print(f"prepared text: {size / 1e6:,.1f} MB in")
    for folder in folders:
        print(f"  {folder}")
    text = task.corpus_statistics()
    return {part: text.get(part, {"files": []})["files"] for part in ("train", "valid", "test")}


def describe_model(task, model, vocabulary, built=None):
    """Prints statistics of the text and of the model.

    Args:
        task, model, vocabulary: of the run.
        built: the model's `GraphBuild`; `None` to create one.

    Returns:
        The result of `tfmoe.analysis.operations.describe`.
    """
    for line in task.report(vocabulary):
        print(line)
    counts = describe(model, built)
    print(f"\n{cost_table(task.config, counts)}\n", flush=True)
    return counts


def finish(task, run, model, vocabulary, counts, seconds):
    """Evaluates the best weights on the test text (on the validation text if there is none) and
    writes `result.json`. All workers of a cluster must call it.

    Args:
        task, run, model, vocabulary: of the run.
        counts: the result of `describe_model`.
        seconds: duration of this process' training, validation included.

    Returns:
        Dictionary: the result of the task's `evaluate`, `evaluated_on`, `ops_per_timestep`,
            `parameters`, `words_trained`, `epochs`, `seconds` of training over all processes, and
            `seconds_since_start`. `None` on all workers but the first.
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
        metrics = task.evaluate(model, vocabulary, files, callbacks, verbose)
        result = {**metrics, "evaluated_on": evaluated_on, **result}
    if not is_first:
        return None
    run.write_json(run.result, result)
    return result


def summary(task, result):
    """Text on the result of a finished run."""
    if "perplexity" not in result:
        return "trained; no valid or test text to evaluate on"
    return f"{result['evaluated_on']}: {task.summary(result)}"
