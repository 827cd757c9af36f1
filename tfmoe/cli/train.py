"""`tfmoe train`: from a config to a run's folder."""

import pathlib
import platform
import signal
import sys
import time
from typing import Annotated

import typer

from tfmoe.cli import arguments
from tfmoe.cli.tensorflow_import import import_tensorflow


def train(
    config: arguments.Config,
    set_: arguments.Set = None,
    run_dir: Annotated[
        pathlib.Path | None,
        typer.Option(help="The run's folder; runs/NAME-OF-CONFIG if not given."),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with the run in the folder, from its last state."),
    ] = False,
):
    """Train a model, evaluate it, and keep everything in a folder.

    The folder gets config.yaml (resolved), vocabulary.txt, checkpoints/ (the best weights and the
    state to resume from), history.csv (a row per epoch), logs/ (for TensorBoard) and result.json
    (perplexity on the test text).

    Killed at any moment, --resume goes on from the last finished epoch, or from the last of every
    N steps with training.checkpoint_every_steps=N, and ends with the weights of a run that was
    never killed. A resumed run may have more training.epochs; nothing else may differ.

    \b
    Examples:
      tfmoe train demo/language_model
      tfmoe train demo/language_model --set training.seed=1 --run-dir runs/seed-1
      tfmoe train demo/language_model --run-dir runs/seed-1 --resume
      tfmoe train demo/language_model --set data.name=text \\
        --set "data.train=my/train-*.txt" --set data.valid=my/valid.txt --set data.test=my/test.txt
    """
    import_tensorflow()
    from tfmoe.cli.resume import where_to_go_on
    from tfmoe.config import find_config, load_config

    loaded = load_config(config, set_ or ())
    run_dir = run_dir or pathlib.Path("runs") / find_config(config).stem
    try:
        result = train_run(loaded, run_dir, resume=resume)
    except KeyboardInterrupt:
        print(f"\ntfmoe: stopped {where_to_go_on(run_dir)}", file=sys.stderr)
        raise typer.Exit(128 + signal.SIGINT) from None
    print(f"\n{summary(result)}\nEverything is in {run_dir}")


def train_run(config, run_dir, resume=False):
    """Trains a model and evaluates its best weights.

    Args:
        config: a `Config`.
        run_dir: the run's folder.
        resume: whether to go on with a run that is there; if there is none yet, it begins.

    Returns:
        What is written to `result.json`, see `finish`.

    Raises:
        FileExistsError: if the folder has a run, and `resume` is false.
        ValueError: if text, vocabulary, config or checkpoint cannot be used.
        FloatingPointError: if the loss is not finite any more.
    """
    import keras

    from data_pipelines import batches_per_pass
    from data_pipelines.atomic_write import atomic_write
    from tfmoe.cli.progress import verbosity
    from tfmoe.cli.resume import check_folder, restore
    from tfmoe.config import build_batches, build_model, build_optimizer, dump_config
    from tfmoe.training.callbacks import History, Progress, SaveState, Throughput
    from tfmoe.training.run_directory import RunDirectory
    from tfmoe.training.state import TrainingState

    run = RunDirectory(run_dir)
    check_folder(config, run, resume)
    splits, surveys, vocabulary = prepare_data(config, run)

    keras.utils.set_random_seed(config.training.seed)
    model = build_model(config, len(vocabulary))
    describe_model(config, model, surveys, vocabulary)
    model.compile(build_optimizer(config), jit_compile=config.training.jit_compile)
    model.build((None, None))
    lengths = surveys["train"].lengths
    steps = config.training.steps_per_epoch or batches_per_pass(
        lengths, batch_tokens=config.data.batch_tokens, max_length=config.data.max_length
    )
    state = TrainingState(model, run.checkpoints)
    if run.begun():
        restore(state, config, run, steps)

    validation = None
    if splits.valid:
        validation = build_batches(
            config, splits.valid, vocabulary, training=False, lengths=surveys["valid"].lengths
        )
        if config.training.validation_batches:
            validation = validation.take(config.training.validation_batches)
    callbacks = [
        Throughput(state),
        Progress(config.training.epochs),
        History(run),
        SaveState(state, every_steps=config.training.checkpoint_every_steps),
        keras.callbacks.TensorBoard(run.logs, write_graph=False),
    ]

    def fit(first_epoch, epochs, steps_per_epoch):
        batches = build_batches(
            config,
            splits.train,
            vocabulary,
            training=True,
            start_batch=state.step,
            lengths=lengths,
        )
        model.fit(
            batches,
            initial_epoch=first_epoch,
            epochs=epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=validation,
            callbacks=callbacks,
            shuffle=False,
            verbose=verbosity(),
        )

    with atomic_write(run.config) as file:  # from here on, there is a run
        file.write(dump_config(config))
    begun = time.perf_counter()
    epoch, epochs = int(state.epoch), config.training.epochs
    part = state.step - epoch * steps
    if epoch < epochs:
        run.result.unlink(missing_ok=True)
    if part:  # killed within an epoch: first its rest
        fit(epoch, epoch + 1, steps - part)
        epoch += 1
    if epoch < epochs:
        fit(epoch, epochs, steps)
    return finish(config, run, model, splits, vocabulary, time.perf_counter() - begun)


def prepare_data(config, run=None):
    """Finds or writes the text, reads it once to check and count it, and makes or reads the
    vocabulary.

    Args:
        config: a `Config`.
        run: the `RunDirectory` that keeps the vocabulary, or `None` to write nothing. If the run
            has begun, its vocabulary is read, and the text must be what it was.

    Returns:
        `(Splits, {"train": Survey, …}, Vocabulary)`, without the parts that the data do not have.
    """
    from data_pipelines import check_test_counts, survey
    from tfmoe.cli.resume import check_text
    from tfmoe.config import build_vocabulary, find_splits, load_vocabulary

    print(f"reading {config.data.name} …", flush=True)
    splits = find_splits(config)
    parts = {"train": splits.train, "valid": splits.valid, "test": splits.test}
    surveys = {part: survey(files) for part, files in parts.items() if files}
    if config.data.name == "lm1b" and check_test_counts(surveys["test"]):
        print("the test text has the sentences and words of the published one")
    text = {
        part: {"files": parts[part], "sentences": found.sentences, "words": found.tokens}
        for part, found in surveys.items()
    }
    if run is not None and run.begun():
        check_text(run, text)
        return splits, surveys, load_vocabulary(run)
    vocabulary = build_vocabulary(config, surveys["train"].words)
    if run is not None:
        vocabulary.save(run.vocabulary)
        facts = {"vocabulary": vocabulary.fingerprint, "text": text, "versions": versions()}
        run.write_json(run.facts, facts)
    return splits, surveys, vocabulary


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


def describe_model(config, model, surveys, vocabulary):
    """Prints what will be trained on what."""
    from tfmoe.cli.describe import report
    from tfmoe.training.accounting import describe

    for part, found in surveys.items():
        oov = found.tokens - sum(count for word, count in found.words.items() if word in vocabulary)
        print(
            f"{part:<6} {found.sentences:>11,} sentences {found.tokens:>13,} words "
            f"{oov / found.tokens:>7.2%} out of vocabulary"
        )
    print(f"vocabulary of {len(vocabulary):,}\n\n{report(config, describe(model))}\n", flush=True)


def finish(config, run, model, splits, vocabulary, seconds):
    """Evaluates the best weights on the test text (else the validation text) and writes
    `result.json`.

    Returns:
        Dictionary: `perplexity`, `loss` (nats per word), `tokens`, `oov`, `evaluated_on`,
            `ops_per_timestep`, `parameters`, `words_trained`, `epochs`, `seconds` of training,
            `seconds_since_start` of this process, validation included.
    """
    from tfmoe.cli.evaluate import evaluate_files
    from tfmoe.training.accounting import describe
    from tfmoe.training.state import load_weights

    counts = describe(model)
    history = run.read_history()
    result = {
        "ops_per_timestep": counts["ops_per_timestep"],
        "parameters": counts["parameters"],
        "words_trained": int(sum(row["words"] for row in history)),
        "epochs": config.training.epochs,
        "seconds": sum(row["seconds"] for row in history),
        "seconds_since_start": seconds,
    }
    evaluated_on = "test" if splits.test else "valid"
    files = splits.test or splits.valid
    if files:
        load_weights(model, run.checkpoints, "best")
        measured = evaluate_files(config, model, vocabulary, files)
        result = {**measured, "evaluated_on": evaluated_on, **result}
    run.write_json(run.result, result)
    return result


def summary(result):
    """One line on a finished run."""
    if "perplexity" not in result:
        return "trained; no valid or test text to evaluate on"
    return (
        f"{result['evaluated_on']} perplexity {result['perplexity']:.2f} on {result['tokens']:,} "
        f"tokens (end of sentence counted), {result['oov']:,} of them out of vocabulary"
    )
