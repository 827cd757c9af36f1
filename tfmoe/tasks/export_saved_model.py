"""Exports a trained run as a SavedModel."""

import os
import pathlib
import shlex
from typing import Any

from tfmoe.serving import saved_model
from tfmoe.serving.exported import check_exportable
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.tasks.exported_files import facts_of, megabytes, without_capacity
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run
from tfmoe.training.callbacks import Progress

# `saved_model_cli` alone does not load tensorflow-text, which tokenization needs.
SAVED_MODEL_CLI = (
    'python -c "import tensorflow_text; from tensorflow.python.tools import saved_model_cli; '
    'saved_model_cli.main()"'
)


def export_saved_model(
    path: pathlib.Path,
    out: str | os.PathLike,
    weights: str,
    version: int | None = None,
    half: bool = False,
    int8: bool = False,
    **options: Any,
) -> str:
    """Exports the model of a run as a SavedModel.

    Args:
        path: the run's folder.
        out: folder of numbered versions.
        weights: `"best"` or `"last"`.
        version: the version to write; `None` for the one after the last.
        half: whether to store large weights as bfloat16.
        int8: whether to store large weights as int8 with scales.
        **options: `tokenization`, `top`, `beam` and `nbest`, those that were given.

    Returns:
        Text that says what was written and how to try it.

    Raises:
        FileNotFoundError: if the folder has no run.
        ValueError: if the version exists, an option is for another kind of model, `half` and `int8`
            are given, or the answers of the model depend on the batch.
    """
    if half and int8:
        raise ValueError("--half and --int8 exclude each other: give one of them")
    stored = "bfloat16" if half else "int8" if int8 else "float32"
    version = saved_model.checked_version(out, version)
    config, vocabulary, model = load_run(path, weights)
    check_exportable(model)
    task, facts = task_of(config), facts_of(path, config, vocabulary, weights, stored)
    for name, value in options.items():
        if name not in task.EXPORT_OPTIONS:
            raise ValueError(f"--{name} {value}: {path} is a run of a {config.model.name} model")
    without_capacity(model, path, weights)
    facts["weights"]["change"] = None
    if stored != "float32":
        facts["weights"]["change"] = rounding_changes(config, vocabulary, model, stored)
    exported = task.exported(vocabulary, model, stored=stored, **options)
    signatures = exported.functions.signatures()
    print(f"tracing {', '.join(signatures)}")
    module, concrete = saved_model.exported_module(signatures, exported.default, exported.resources)
    facts |= {
        "tokenization": exported.tokenization,
        "signatures": saved_model.describe_signatures(signatures, concrete),
        "serving_default": exported.default,
    }
    written = saved_model.write_saved_model(out, version, module, concrete, facts, vocabulary)
    return "\n".join(
        [
            f"{written}: {', '.join(signatures)}; {megabytes(written):.1f} MB; "
            f"{written / saved_model.MANIFEST}",
            "Try it:",
            f"  {example_command(written, exported)}",
        ]
    )


def rounding_changes(config, vocabulary, model, stored):
    """The effect of weights stored as bfloat16 or int8 on quality, for the manifest. `None`, with a
    printed reason, if it cannot be measured.
    """
    try:
        changes = rounded_quality(config, vocabulary, model, stored, [Progress()], verbosity())
    except (ValueError, OSError) as error:
        print(f"{stored}: its effect on quality was not measured: {error}")
        return None
    for name in ("perplexity", "bleu"):
        if name in changes:
            before, after = changes[name]["float32"], changes[name][stored]
            print(
                f"{name}: {before:.4f} with float32, {after:.4f} with {stored} weights "
                f"({after - before:+.4f})"
            )
    return changes


def rounded_quality(config, vocabulary, model, stored, callbacks, verbose=0):
    """Measures the effect of rounding weights on the run's test text. The model keeps the rounded
    weights.

    Args:
        config, vocabulary, model: of a run.
        stored: `"bfloat16"` or `"int8"`, see `FrozenWeights`.
        callbacks, verbose: arguments of `model.evaluate`.

    Returns:
        Dictionary: `"perplexity"`, and for translation `"bleu"`, each `{"float32", stored}`;
        `"measured"`, a sentence on how it was measured.

    Raises:
        ValueError: if the config has no test text.
        tfmoe.data_pipelines.TextError: if a file of the test text is missing.
    """
    task = task_of(config)
    files = task.splits.test
    if not files:
        raise ValueError("the config has no test text (data.test)")
    model.compile(jit_compile=config.training.jit_compile)

    full = task.evaluate(model, vocabulary, files, callbacks, verbose)
    FrozenWeights(model, stored).round_model()
    rounded = task.evaluate(model, vocabulary, files, callbacks, verbose)
    names = [name for name in ("perplexity", "bleu") if name in full]
    return {
        **{name: {"float32": full[name], stored: rounded[name]} for name in names},
        "measured": "by `evaluate` on the run's test text, before and after rounding the weights",
    }


def example_command(path, exported):
    """A command that calls the exported model.

    Args:
        path: the folder of the exported version.
        exported: the result of the task's `exported`.
    """
    program = "saved_model_cli" if exported.tokenization == "words" else SAVED_MODEL_CLI
    return (
        f"{program} run --dir {shlex.quote(str(path))} --tag_set serve "
        f"--signature_def {exported.default} --input_exprs {shlex.quote(exported.example)}"
    )
