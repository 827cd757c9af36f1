"""`tfmoe evaluate`: the perplexity of a trained model."""

import contextlib
import json as json_format
import pathlib
import sys
from typing import Annotated

import typer

from tfmoe.cli import arguments
from tfmoe.cli.tensorflow_import import import_tensorflow


def evaluate(
    run: Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="The folder of a run.")],
    data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="GLOB",
            help="Text files, one tokenised sentence a line. May be given repeatedly.",
        ),
    ] = None,
    weights: Annotated[str, typer.Option(help="best (by validation perplexity) or last.")] = "best",
    json: arguments.Json = False,
):
    """Measure the perplexity per word of a trained model, by the full softmax.

    By the 1B Word protocol: the end of every sentence is predicted and counted, its beginning never
    is; words out of the vocabulary are predicted as <UNK>, and count. Without --data, the run's own
    test text is used.

    \b
    Examples:
      tfmoe evaluate runs/demo/moe
      tfmoe evaluate runs/demo/moe --data "my/*.txt" --json

    \b
    With --json: {"perplexity", "tokens" (predictions), "oov" (of these, out of vocabulary),
    "loss" (nats per token)}.
    """
    if weights not in ("best", "last"):
        raise ValueError(f"--weights must be best or last, got {weights!r}")
    import_tensorflow()
    from data_pipelines import find_files
    from tfmoe.config import find_splits, load_run

    with contextlib.redirect_stdout(sys.stderr):
        config, vocabulary, model = load_run(run, weights)
        files = find_files(data) if data else find_splits(config).test
        if not files:
            raise ValueError(
                f"{run} has no test text (data.test in its config): name one with --data"
            )
        result = evaluate_files(config, model, vocabulary, files)
    if json:
        print(json_format.dumps(result))
    else:
        print(
            f"perplexity {result['perplexity']:.3f} ({result['loss']:.4f} nats) per token on "
            f"{result['tokens']:,} tokens, {result['oov']:,} of them out of vocabulary"
        )


def evaluate_files(config, model, vocabulary, files):
    """Evaluates a model on text files.

    Args:
        config: the `Config` whose batch settings are used.
        model: a built `LanguageModel`.
        vocabulary: its `Vocabulary`.
        files: list of paths.

    Returns:
        Dictionary: `perplexity`, `tokens` counted, `oov` of them, `loss` in nats per token, and per
            mixture its metrics of use (`moe_1_cv_load`, …).
    """
    from data_pipelines import survey
    from tfmoe.cli.progress import verbosity
    from tfmoe.config import build_batches
    from tfmoe.training.callbacks import Progress

    found = survey(files)
    if not model.compiled:
        model.compile(jit_compile=config.training.jit_compile)
    batches = build_batches(config, files, vocabulary, training=False, lengths=found.lengths)
    logs = model.evaluate(batches, return_dict=True, verbose=verbosity(), callbacks=[Progress()])
    loss = float(model.perplexity.total.value / model.perplexity.count.value)
    use = {
        name: float(value)
        for name, value in logs.items()
        if name not in ("loss", "perplexity", "words")
    }
    return {
        "perplexity": float(logs["perplexity"]),
        "tokens": int(model.perplexity.count),
        "oov": sum(count for word, count in found.words.items() if word not in vocabulary),
        "loss": loss,
        **use,
    }
