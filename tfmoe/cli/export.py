"""`tfmoe export`: a trained model as a SavedModel."""

import contextlib
import pathlib
import shlex
import sys
from typing import Annotated

import typer

from tfmoe.cli import arguments
from tfmoe.tasks.tensorflow_import import import_tensorflow

# `saved_model_cli` itself does not load tensorflow-text, whose operations tokenization needs.
SAVED_MODEL_CLI = (
    'python -c "import tensorflow_text; from tensorflow.python.tools import saved_model_cli; '
    'saved_model_cli.main()"'
)


def export(
    run: arguments.Run,
    out: Annotated[
        pathlib.Path,
        typer.Argument(metavar="OUT", help="A folder of numbered versions; made if missing."),
    ],
    version: Annotated[
        int | None,
        typer.Option(metavar="N", help="The version to write; else the one after the last."),
    ] = None,
    weights: arguments.Weights = "best",
    half: Annotated[
        bool,
        typer.Option(
            "--half",
            help="Matrices in bfloat16, half the size; measures on the run's test text what that "
            "changes. Gates and biases stay float32.",
        ),
    ] = False,
    tokenization: Annotated[
        str | None,
        typer.Option(
            metavar="KIND",
            help="Of a language model: text (running text, which is put in lower case and split as "
            "the embedded text was; the default for it) or words (separated by white space; the "
            "default for all others).",
        ),
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="N", help="Words that next_token gives; 10 by default."),
    ] = None,
    beam: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Hypotheses that translate follows; else as in the config, at least --nbest.",
        ),
    ] = None,
    nbest: Annotated[
        int | None,
        typer.Option(metavar="N", help="Translations of each sentence; 1 by default."),
    ] = None,
):
    """Write a trained model as a SavedModel that takes strings.

    It is written to OUT/1, OUT/2, … as TensorFlow Serving reads them; an existing version is never
    overwritten, and one that is there is complete. It needs TensorFlow, and tensorflow-text for
    running text and translation, but nothing of tfmoe: vocabulary and tokenization are inside.

    \b
    Signatures of a language model (each has the outputs' types and shapes in manifest.json):
      score       sentences → log_probability, token_log_probabilities, tokens, token_count
      next_token  prefix → words, probabilities
      generate    prefix, length, temperature, seed → text, words, word_count, ended
      route       sentences → tokens, and experts and gate values of each mixture
    Of a translation model:
      translate   sentences (, language) → translations, scores, truncated
      route       sentences (, language) → source_tokens, target_tokens, experts, gate values
    serving_default is score or translate.

    Any number of sentences can be given, none too. Answers are those of the model at evaluation,
    and do not depend on the rest of the batch: gates draw no noise, Batchwise takes its learned
    thresholds, and an evaluation_capacity_factor is set aside. Sentences for a language model may
    have any length (beyond data.max_length they go on as in `tfmoe evaluate`); of a sentence to
    translate 500 subwords are read.

    manifest.json beside the model has the config, versions, the run's measured results, the
    signatures, and the SHA-256 of every file.

    \b
    Examples:
      tfmoe export runs/language_model exported/language_model
      tfmoe export runs/language_model exported/small --half
      tfmoe export runs/multilingual exported/multilingual --beam 8 --nbest 3
    """
    for name, value in (("--top", top), ("--beam", beam), ("--nbest", nbest)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, got {value}")
    if beam is not None and beam < (nbest or 1):
        raise ValueError(f"--beam must be at least --nbest {nbest}, got {beam}")
    if tokenization not in (None, "text", "words"):
        raise ValueError(f"--tokenization must be text or words, got {tokenization!r}")
    import_tensorflow()
    from tfmoe.serving import saved_model as exporting
    from tfmoe.tasks import load_run
    from tfmoe.tasks import serving as builders
    from tfmoe.tasks.progress import verbosity
    from tfmoe.training.callbacks import Progress
    from tfmoe.training.run_directory import RunDirectory
    from tfmoe.training.state import saved_step

    version = exporting.checked_version(out, version)
    with contextlib.redirect_stdout(sys.stderr):
        config, vocabulary, model = load_run(run, weights)
        directory = RunDirectory(run)
        measured = {"of_weights": "best", **directory.read_result()}
        translates = config.model.name == "translation"
        of_the_other = {
            "--top": top, "--tokenization": tokenization
        } if translates else {"--beam": beam, "--nbest": nbest}  # fmt: skip
        for name, value in of_the_other.items():
            if value is not None:
                raise ValueError(f"{name} {value}: {run} is a run of a {config.model.name} model")
        print(f"exporting the {weights} weights of {run}")
        for name in builders.set_capacity_aside(model):
            print(
                f"{name}: the evaluation_capacity_factor is set aside: its experts take all tokens"
            )
        changes = None
        if half:
            changes = measured_changes(config, vocabulary, model, Progress(), verbosity())
        if translates:
            nbest = nbest or 1
            serving, resources = builders.build_serving_translator(
                config,
                vocabulary,
                model,
                half=half,
                beam_size=beam or max(nbest, config.model.decoding.beam_size),
                num_best=nbest,
            )
        else:
            tokenization = tokenization or builders.default_tokenization(config)
            serving, resources = builders.build_serving_language_model(
                config, vocabulary, model, tokenization, half=half, top=top or 10
            )
        signatures = serving.signatures()
        default = "translate" if translates else "score"
        print(f"tracing {', '.join(signatures)}")
        module, concrete = exporting.exported_module(signatures, default, resources)
        facts = {
            "model": config.model.name,
            "run": run.resolve().name,
            "made_with": exporting.software(),
            "weights": {
                "which": weights,
                "step": saved_step(directory.checkpoints, weights),
                "type": "bfloat16" if half else "float32",
                "change": changes,
            },
            "tokenization": "subwords" if translates else tokenization,
            "signatures": exporting.described(signatures, concrete),
            "serving_default": default,
            "metrics": measured,
            "config": directory.config.read_text(encoding="utf-8"),
        }
        path = exporting.write_saved_model(out, version, module, concrete, facts)
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    print(f"{path}: {', '.join(signatures)}; {size / 1e6:.1f} MB; {path / exporting.MANIFEST}")
    print("Try it:")
    print(f"  {example_command(path, translates, vocabulary, tokenization)}")


def measured_changes(config, vocabulary, model, progress, verbose):
    """What half size changes, for the manifest; `None`, and a line that says why, where it cannot
    be measured.
    """
    from tfmoe.tasks.serving import rounded_quality

    try:
        changes = rounded_quality(config, vocabulary, model, [progress], verbose)
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


def example_command(path, translates, vocabulary, tokenization):
    """A command line that asks the exported model something."""
    if translates:
        inputs = 'sentences=["Monday, May 4, 2020"]'
        if vocabulary.languages:
            inputs += f';language=["{vocabulary.languages[0]}"]'
        signature, program = "translate", SAVED_MODEL_CLI
    else:
        words = [vocabulary.word(index) for index in range(3, min(100, len(vocabulary)))]
        plain = [word for word in words if word.isalnum()] or ["a"]
        inputs = f'sentences=["{" ".join(plain[:4])}"]'
        signature = "score"
        program = SAVED_MODEL_CLI if tokenization == "text" else "saved_model_cli"
    return (
        f"{program} run --dir {shlex.quote(str(path))} --tag_set serve --signature_def {signature} "
        f"--input_exprs {shlex.quote(inputs)}"
    )
