"""`tfmoe demo`: a mixture of experts beside a dense model of the same cost."""

import pathlib
import signal
import sys
from typing import Annotated

import typer

from tfmoe.analysis.columns import table
from tfmoe.cli import arguments
from tfmoe.cli.train import train_run
from tfmoe.inspection.summary import HEAD, by_load, expert_rows
from tfmoe.tasks.tensorflow_import import import_tensorflow

MODELS = {"moe": "demo/language_model", "dense": "demo/dense"}


def demo(
    run_dir: Annotated[pathlib.Path, typer.Option(help="The folder for both runs.")] = pathlib.Path(
        "runs/demo"
    ),
    set_: arguments.Set = None,
):
    """Train a small mixture of experts and a dense model of the same cost, and compare them.

    Both see the same words of the embedded text (English, Python source, eight languages) in the
    same order. Prints perplexities and what the experts became special in; the folder gets a run
    for each model (moe, dense), curves.png and summary.json. A demo that was killed goes on where
    it was; a finished one, or one with other settings, begins anew. --set is for both models.

    \b
    Examples:
      tfmoe demo
      tfmoe demo --set training.seed=1 --run-dir runs/demo-1
    """
    import_tensorflow()
    from tfmoe.config import load_config

    configs = {name: load_config(path, set_ or ()) for name, path in MODELS.items()}
    for config in configs.values():
        check_data(config)
    results = {}
    try:
        clear_old_runs(configs, run_dir)
        for name, config in configs.items():
            print(f"\n== {name}: configs/{MODELS[name]}.yaml ==", flush=True)
            results[name] = train_run(config, run_dir / name, resume=True)
        compare(run_dir, results)
    except KeyboardInterrupt:
        print("\ntfmoe: stopped; the same command goes on with it", file=sys.stderr)
        raise typer.Exit(128 + signal.SIGINT) from None


def check_data(config):
    """Checks that there are files to train, validate and test on, before anything is removed."""
    from tfmoe.tasks import find_splits

    for part, files in vars(find_splits(config)).items():
        if not files:
            raise ValueError(
                f"data.{part}: is empty, but the demo needs train, valid and test text"
            )


def clear_old_runs(configs, run_dir):
    """Removes the runs of a finished demo, and those of other configs.

    Args:
        configs: `{name: Config}` of the runs to be.
        run_dir: the demo's folder.
    """
    from tfmoe.config import load_config
    from tfmoe.config.problems import ConfigError
    from tfmoe.training.run_directory import RunDirectory

    summary = run_dir / "summary.json"
    for name, config in configs.items():
        run = RunDirectory(run_dir / name)
        try:
            usable = run.begun() and load_config(run.config) == config
        except ConfigError:
            usable = False
        if run.begun() and (summary.exists() or not usable):
            run.clear()
    summary.unlink(missing_ok=True)


def compare(run_dir, results):
    """Prints the comparison, and writes `summary.json` and `curves.png`."""
    from tfmoe.analysis.plots import perplexity_curves
    from tfmoe.training.run_directory import RunDirectory

    runs = {name: RunDirectory(run_dir / name) for name in results}
    print(f"\n{use_report(run_dir / 'moe')}\n")
    rows = [["", "perplexity", "ops/timestep", "parameters", "seconds"]]
    for name, result in results.items():
        rows.append(
            [
                name,
                f"{result['perplexity']:.2f}",
                f"{result['ops_per_timestep']:,}",
                f"{result['parameters']['total']:,}",
                f"{result['seconds']:.0f}",
            ]
        )
    print(table(rows, "<>>>>"))
    moe, dense = results["moe"], results["dense"]
    better = 1 - moe["perplexity"] / dense["perplexity"]
    print(
        f"\nAfter the same {moe['words_trained']:,} words, the mixture's test perplexity is "
        f"{abs(better):.1%} {'below' if better > 0 else 'above'} the dense model's."
    )
    summary = {
        name: {
            "perplexity": result["perplexity"],
            "ops_per_timestep": result["ops_per_timestep"],
            "parameters": result["parameters"]["total"],
            "seconds": result["seconds"],
        }
        for name, result in results.items()
    }
    summary["tokens"] = moe["words_trained"]
    summary["test_tokens"] = moe["tokens"]
    perplexity_curves(
        {name: run.read_history() for name, run in runs.items()},
        run_dir / "curves.png",
        "A mixture of experts and a dense model of the same cost",
    )
    RunDirectory(run_dir).write_json(run_dir / "summary.json", summary)  # last: it is finished
    print(f"Curves: {run_dir / 'curves.png'}   Summary: {run_dir / 'summary.json'}")


def use_report(run_dir, most=32):
    """A table of the experts of a run's first mixture: load, importance, characteristic words.

    Args:
        run_dir: the run's folder.
        most: rows; of more experts, the most and the least used ones are shown.
    """
    from data_pipelines import survey
    from tfmoe.inspection import expert_use
    from tfmoe.tasks import build_batches, find_splits, load_run

    config, vocabulary, model = load_run(run_dir)
    files = find_splits(config).test
    lengths = survey(files).lengths
    batches = build_batches(config, files, vocabulary, training=False, lengths=lengths)
    name, use = next(iter(expert_use(model, batches).items()))
    order = by_load(use)
    shown = order if len(order) <= most else order[: most // 2] + order[-most // 2 :]
    words = {expert: vocabulary.decode(use.characteristic_words(expert)) for expert in shown}
    unused = int((use.load == 0).sum())
    head = f"Use of the {len(order)} experts of {name} on the test text; {unused} unused"
    if len(shown) < len(order):
        head += f"; the {most // 2} most and the {most // 2} least used"
    return f"{head}\n{table([HEAD, *expert_rows(use, words)], '>>><')}"
