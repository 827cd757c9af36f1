"""`tfmoe train`: from a config to a run's folder."""

import pathlib
import platform
import signal
import sys
import time

import typer

from tfmoe.cli import arguments
from tfmoe.tasks.tensorflow_import import import_tensorflow


def train(
    config: arguments.Config,
    set_: arguments.Set = None,
    run_dir: arguments.RunDir = None,
    resume: arguments.Resume = False,
):
    """Train a model, evaluate it, and keep everything in a folder.

    The folder gets config.yaml (resolved), vocabulary.txt (or .model, of subwords), checkpoints/
    (the best weights and the state to resume from), history.csv (a row per epoch), logs/ (for
    TensorBoard) and result.json (perplexity on the test text; of a translation model also BLEU).

    Killed at any moment, --resume goes on from the last finished epoch, or from the last of every
    N steps with training.checkpoint_every_steps=N, and ends with the weights of a run that was
    never killed. A resumed run may have more training.epochs, another model.decoding and another
    distribute; nothing else may differ.

    distribute.name=local trains on all GPUs of this machine, experts sharded over them;
    distribute.name=cluster on the workers that TF_CONFIG names, of which each runs this command.

    \b
    Examples:
      tfmoe train demo/language_model
      tfmoe train demo/language_model --set training.seed=1 --run-dir runs/seed-1
      tfmoe train demo/language_model --run-dir runs/seed-1 --resume
      tfmoe train demo/language_model --set data.name=text \\
        --set "data.train=my/train-*.txt" --set data.valid=my/valid.txt --set data.test=my/test.txt
    """
    import_tensorflow()
    from tfmoe.config import find_config, load_config
    from tfmoe.tasks import task_of
    from tfmoe.tasks.resume import where_to_go_on

    loaded = load_config(config, set_ or ())
    run_dir = run_dir or pathlib.Path("runs") / find_config(config).stem
    try:
        result = train_run(loaded, run_dir, resume=resume)
    except KeyboardInterrupt:
        print(f"\ntfmoe: stopped {where_to_go_on(run_dir)}", file=sys.stderr)
        raise typer.Exit(128 + signal.SIGINT) from None
    if result is not None:  # another worker has it
        print(f"\n{summary(task_of(loaded), result)}\nEverything is in {run_dir}")


def train_run(config, run_dir, resume=False):
    """Trains a model and evaluates its best weights.

    Args:
        config: a `Config`.
        run_dir: the run's folder.
        resume: whether to go on with a run that is there; if there is none yet, it begins.

    Returns:
        What is written to `result.json`, see `finish`; `None` on all workers of a cluster but the
        first, which writes everything.

    Raises:
        FileExistsError: if the folder has a run, and `resume` is false.
        ValueError: if text, vocabulary, config or checkpoint cannot be used.
        FloatingPointError: if the loss is not finite any more.
        ConnectionError: if another worker of a cluster is gone.
    """
    from tfmoe.config import build_strategy
    from tfmoe.distribute import stopping_when_a_worker_is_gone

    with stopping_when_a_worker_is_gone():
        return train_on(build_strategy(config), config, run_dir, resume)


def train_on(strategy, config, run_dir, resume):
    """`train_run` on the devices of a strategy."""
    import keras

    from data_pipelines.atomic_write import atomic_write
    from tfmoe.config import build_model, build_optimizer, dump_config
    from tfmoe.distribute import is_first_worker, wait_for_workers
    from tfmoe.tasks import task_of
    from tfmoe.tasks.progress import verbosity
    from tfmoe.tasks.resume import check_folder, restore
    from tfmoe.training.callbacks import History, Progress, SaveState, StopWhenStuck, Throughput
    from tfmoe.training.run_directory import RunDirectory
    from tfmoe.training.state import TrainingState

    run = RunDirectory(run_dir)
    check_folder(config, run, resume)
    begun_before = run.begun()
    wait_for_workers(strategy)  # before anything is written that others look for
    task = task_of(config)
    vocabulary = prepare_data(task, run, begun_before, writes=is_first_worker(strategy))

    keras.utils.set_random_seed(config.training.seed)
    with strategy.scope():
        model = build_model(config, len(vocabulary))
        describe_model(task, model, vocabulary)
        model.compile(build_optimizer(config), jit_compile=config.training.jit_compile)
        model.build((None, None))
    steps = config.training.steps_per_epoch or task.batches_per_epoch(vocabulary)
    state = TrainingState(model, run.checkpoints)
    if begun_before:
        restore(state, config, run, steps)

    validation = task.validation_batches(vocabulary)
    if validation is not None and config.training.validation_batches:
        validation = validation.take(config.training.validation_batches)
    callbacks = [
        Throughput(state),
        SaveState(state, every_steps=config.training.checkpoint_every_steps),
    ]
    if config.distribute.name == "cluster":
        callbacks.append(StopWhenStuck(config.distribute.step_timeout_seconds))
    if is_first_worker(strategy):
        callbacks[1:1] = [Progress(config.training.epochs), History(run)]
        callbacks.append(keras.callbacks.TensorBoard(run.logs, write_graph=False))
        callbacks.append(expert_summaries(task, run, model, vocabulary))
        with atomic_write(run.config) as file:  # from here on, there is a run
            file.write(dump_config(config))

    def fit(first_epoch, epochs, steps_per_epoch):
        model.fit(
            task.training_batches(vocabulary, start_batch=state.step),
            initial_epoch=first_epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation,
            callbacks=callbacks,
            shuffle=False,
            verbose=verbosity() if is_first_worker(strategy) else 0,
        )

    begun = time.perf_counter()
    epoch, epochs = int(state.epoch), config.training.epochs
    part = state.step - epoch * steps
    if epoch < epochs and is_first_worker(strategy):
        run.result.unlink(missing_ok=True)
    if part:  # killed within an epoch: first its rest
        fit(epoch, epoch + 1, steps - part)
        epoch += 1
    if epoch < epochs:
        fit(epoch, epochs, steps)
    return finish(task, run, model, vocabulary, time.perf_counter() - begun)


def expert_summaries(task, run, model, vocabulary, sentences=200):
    """The callback that writes what the experts do on a sample of the validation text."""
    from tfmoe.inspection.summaries import ExpertSummaries, has_all_experts

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
    from tfmoe.tasks import load_vocabulary
    from tfmoe.tasks.resume import check_text

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
    import keras
    import tensorflow as tf

    from tfmoe import __version__

    return {
        "tfmoe": __version__,
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
    }


def describe_model(task, model, vocabulary):
    """Prints what will be trained on what."""
    from tfmoe.analysis.operations import describe
    from tfmoe.cli.describe import report

    for line in task.report(vocabulary):
        print(line)
    print(f"\n{report(task.config, describe(model))}\n", flush=True)


def finish(task, run, model, vocabulary, seconds):
    """Evaluates the best weights on the test text (else the validation text) and writes
    `result.json`. All workers of a cluster must call it.

    Returns:
        Dictionary: what the task's `evaluate` gives, `evaluated_on`, `ops_per_timestep`,
            `parameters`, `words_trained`, `epochs`, `seconds` of training, `seconds_since_start` of
            this process, validation included. `None` on all workers but the first.
    """
    from tfmoe.analysis.operations import describe
    from tfmoe.distribute import is_first_worker
    from tfmoe.tasks.progress import verbosity
    from tfmoe.training.callbacks import Progress
    from tfmoe.training.state import load_weights

    counts = describe(model)
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
