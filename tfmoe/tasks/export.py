"""Exporting a trained run as a SavedModel."""

import shlex

from tfmoe.serving import saved_model
from tfmoe.serving.exported import remove_evaluation_capacity
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run
from tfmoe.training.callbacks import Progress
from tfmoe.training.run_directory import RunDirectory
from tfmoe.training.state import saved_step

# `saved_model_cli` itself does not load tensorflow-text, whose operations tokenization needs.
SAVED_MODEL_CLI = (
    'python -c "import tensorflow_text; from tensorflow.python.tools import saved_model_cli; '
    'saved_model_cli.main()"'
)


def export_run(path, out, version=None, weights="best", half=False, options=None):
    """Exports the model of a run.

    Args:
        path: the run's folder.
        out: folder of numbered versions.
        version: the number to write; `None` for the one after the last.
        weights: `"best"` or `"last"`.
        half: whether large weights are bfloat16.
        options: `{name: value}` of `tokenization`, `top`, `beam`, `nbest`; `None` for the default.

    Returns:
        Lines that say what was written, and how to try it.

    Raises:
        FileNotFoundError: if the folder is no run.
        ValueError: if the version is there already, or an option is one of another kind of model.
    """
    version = saved_model.checked_version(out, version)
    config, vocabulary, model = load_run(path, weights)
    directory, task = RunDirectory(path), task_of(config)
    metrics = {"of_weights": "best", **directory.read_result()}
    given = {name: value for name, value in (options or {}).items() if value is not None}
    for name, value in given.items():
        if name not in task.EXPORT_OPTIONS:
            raise ValueError(f"--{name} {value}: {path} is a run of a {config.model.name} model")
    print(f"exporting the {weights} weights of {path}")
    for name in remove_evaluation_capacity(model):
        print(f"{name}: the evaluation_capacity_factor is set aside: its experts take all tokens")
    change = measured_changes(config, vocabulary, model) if half else None
    exported = task.exported(vocabulary, model, half=half, **given)
    signatures = exported.functions.signatures()
    print(f"tracing {', '.join(signatures)}")
    module, concrete = saved_model.exported_module(signatures, exported.default, exported.resources)
    facts = {
        "model": config.model.name,
        "run": path.resolve().name,
        "made_with": saved_model.software(),
        "weights": {
            "which": weights,
            "step": saved_step(directory.checkpoints, weights),
            "type": "bfloat16" if half else "float32",
            "change": change,
        },
        "tokenization": exported.tokenization,
        "signatures": saved_model.describe_signatures(signatures, concrete),
        "serving_default": exported.default,
        "metrics": metrics,
        "config": directory.config.read_text(encoding="utf-8"),
    }
    written = saved_model.write_saved_model(out, version, module, concrete, facts)
    return "\n".join(
        [
            f"{written}: {', '.join(signatures)}; {megabytes(written):.1f} MB; "
            f"{written / saved_model.MANIFEST}",
            "Try it:",
            f"  {example_command(written, exported)}",
        ]
    )


def megabytes(folder):
    """The size of all files in a folder, in millions of bytes."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


def measured_changes(config, vocabulary, model):
    """What half size changes, for the manifest; `None`, and a line that says why, where it cannot
    be measured.
    """
    try:
        changes = rounded_quality(config, vocabulary, model, [Progress()], verbosity())
    except (ValueError, OSError) as error:
        print(f"bfloat16: what it changes was not measured: {error}")
        return None
    for name in ("perplexity", "bleu"):
        if name in changes:
            before, after = changes[name]["float32"], changes[name]["bfloat16"]
            print(
                f"{name}: {before:.4f} with float32, {after:.4f} with bfloat16 weights "
                f"({after - before:+.4f})"
            )
    return changes


def rounded_quality(config, vocabulary, model, callbacks, verbose=0):
    """Measures on the run's test text what weights of half size change, and leaves the model with
    the rounded weights.

    Args:
        config, vocabulary, model: of a run.
        callbacks, verbose: of `model.evaluate`.

    Returns:
        Dictionary: `"perplexity"`, and for translation `"bleu"`, each `{"float32", "bfloat16"}`;
        `"measured"`, on what.

    Raises:
        ValueError: if the config has no test text.
        tfmoe.data_pipelines.TextError: if it is missing.
    """
    task = task_of(config)
    files = task.splits.test
    if not files:
        raise ValueError("the config has no test text (data.test)")
    model.compile(jit_compile=config.training.jit_compile)

    def measured():
        return task.evaluate(model, vocabulary, files, callbacks, verbose)

    whole = measured()
    FrozenWeights(model, half=True).round_model()
    rounded = measured()
    figures = [name for name in ("perplexity", "bleu") if name in whole]
    return {
        **{name: {"float32": whole[name], "bfloat16": rounded[name]} for name in figures},
        "measured": "by `evaluate` on the run's test text, before and after rounding the weights",
    }


def example_command(path, exported):
    """A command line that asks the exported model something.

    Args:
        path: of the version that was written.
        exported: what the task's `exported` gave.
    """
    program = "saved_model_cli" if exported.tokenization == "words" else SAVED_MODEL_CLI
    return (
        f"{program} run --dir {shlex.quote(str(path))} --tag_set serve "
        f"--signature_def {exported.default} --input_exprs {shlex.quote(exported.example)}"
    )
