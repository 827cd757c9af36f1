"""The demo: a mixture of experts beside a dense model of the same cost, and a 5-gram model."""

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.plots import perplexity_curves
from tfmoe.config.loader import load_config
from tfmoe.config.problems import ConfigError
from tfmoe.data_pipelines import survey
from tfmoe.extras import require
from tfmoe.inspection.summary import HEADING, by_load, expert_rows
from tfmoe.inspection.use import expert_use
from tfmoe.tasks.corpora import find_splits
from tfmoe.tasks.language_modeling import build_batches
from tfmoe.tasks.ngrams import measured_ngrams
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_run, load_vocabulary
from tfmoe.tasks.train import train_run
from tfmoe.training.run_directory import RunDirectory

MODELS = {"moe": "demo/language_model", "dense": "demo/dense"}
NGRAMS = "kneser_ney"  # the key of summary.json


def run_demo(run_dir, overrides=()):
    """Trains both models and compares them; goes on with a demo that was stopped.

    Args:
        run_dir: the folder for both runs.
        overrides: of `--set`, for both models.

    Raises:
        MissingExtra: if matplotlib is not installed.
        ConfigError: for an override that a model cannot have.
        ValueError: if there is no train, valid or test text.
    """
    require("matplotlib")
    configs = {name: load_config(path, overrides) for name, path in MODELS.items()}
    for config in configs.values():
        check_data(config)
    clear_old_runs(configs, run_dir)
    results = {}
    for name, config in configs.items():
        print(f"\n== {name}: configs/{MODELS[name]}.yaml ==", flush=True)
        results[name] = train_run(config, run_dir / name, resume=True)
    compare(run_dir, results)


def check_data(config):
    """Checks that there are files to train, validate and test on, before anything is removed."""
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
    runs = {name: RunDirectory(run_dir / name) for name in results}
    print(f"\n== {NGRAMS}: 5-grams of the same text ==", flush=True)
    figures = {NGRAMS: figures_of(ngrams_of(runs["moe"]))}
    figures |= {name: figures_of(result) for name, result in results.items()}
    print(f"\n{use_report(run_dir / 'moe')}\n")
    rows = [["", "perplexity", "ops/timestep", "parameters", "seconds"]]
    for name, each in figures.items():
        label = "Kneser-Ney 5-gram" if name == NGRAMS else name
        counts = (f"{each[key]:,}" for key in ("ops_per_timestep", "parameters"))
        rows.append([label, f"{each['perplexity']:.2f}", *counts, f"{each['seconds']:.0f}"])
    print(aligned(rows, "<>>>>"))
    moe, dense = results["moe"], results["dense"]
    better = 1 - moe["perplexity"] / dense["perplexity"]
    print(
        f"\nAfter the same {moe['words_trained']:,} words, the mixture's test perplexity is "
        f"{abs(better):.1%} {'below' if better > 0 else 'above'} the dense model's."
    )
    summary = {**figures, "tokens": moe["words_trained"], "test_tokens": moe["tokens"]}
    perplexity_curves(
        {name: run.read_history() for name, run in runs.items()},
        run_dir / "curves.png",
        "A mixture of experts and a dense model of the same cost",
    )
    RunDirectory(run_dir).write_json(run_dir / "summary.json", summary)  # last: it is finished
    print(f"Curves: {run_dir / 'curves.png'}   Summary: {run_dir / 'summary.json'}")


def ngrams_of(run):
    """What `measured_ngrams` gives of the text of a run, with its vocabulary.

    Args:
        run: a `RunDirectory`.
    """
    task = task_of(load_config(run.config))
    vocabulary = load_vocabulary(run, task)
    return measured_ngrams(task.splits.train, task.splits.test, vocabulary)


def figures_of(result):
    """What the table and `summary.json` have of a model, trained or counted."""
    parameters = result["parameters"]
    return {
        "perplexity": result["perplexity"],
        "ops_per_timestep": result["ops_per_timestep"],
        "parameters": parameters["total"] if isinstance(parameters, dict) else parameters,
        "seconds": result["seconds"],
    }


def use_report(run_dir, most=32):
    """A table of the experts of a run's first mixture: load, importance, characteristic words.

    Args:
        run_dir: the run's folder.
        most: rows; of more experts, the most and the least used ones are shown.
    """
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
    return f"{head}\n{aligned([HEADING, *expert_rows(use, words)], '>>><')}"
