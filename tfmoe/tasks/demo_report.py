"""The demo's printed tables, `summary.json` and `curves.png`."""

import math

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.plots import curves_side_by_side
from tfmoe.data_pipelines import survey
from tfmoe.inspection.summary import HEADING, by_load, expert_rows
from tfmoe.inspection.use import expert_use
from tfmoe.tasks.corpora import find_splits
from tfmoe.tasks.runs import load_run
from tfmoe.tasks.text_batches import build_batches
from tfmoe.training.run_directory import RunDirectory

LABELS = {"moe": "mixture of experts", "dense": "dense", "kneser_ney": "Kneser-Ney 5-gram"}


def first_result(grammars, results):
    """A table of the two models of the synthetic language, and the language's perplexity.

    Args:
        grammars: the `tfmoe.data_pipelines.corpora.Grammars` of both.
        results: `{"grammars/moe": result, "grammars/dense": result}`.
    """
    moe, dense = results["grammars/moe"], results["grammars/dense"]
    lowest = grammars.tables().entropy
    table = table_of({"moe": figures_of(moe), "dense": figures_of(dense)})
    closed = (dense["loss"] - moe["loss"]) / (dense["loss"] - lowest)
    return (
        f"First result: a language of {grammars.grammars} grammars over the same "
        f"{grammars.symbols} words, whose perplexity is {math.exp(lowest):.2f}.\n\n{table}\n\n"
        f"After the same {moe['words_trained']:,} words, the mixture closes {closed:.0%} of the "
        "gap between the dense model's loss and the language's entropy."
    )


def table_of(figures):
    """A table of `{key of LABELS: result of figures_of}`."""
    rows = [["", "perplexity", "ops/timestep", "parameters", "seconds"]]
    for name, row in figures.items():
        counts = (f"{row[key]:,}" for key in ("ops_per_timestep", "parameters"))
        rows.append([LABELS[name], f"{row['perplexity']:.2f}", *counts, f"{row['seconds']:.0f}"])
    return aligned(rows, "<>>>>")


def figures_of(result):
    """The figures of a trained or counted model for the table and `summary.json`."""
    parameters = result["parameters"]
    return {
        "perplexity": result["perplexity"],
        "ops_per_timestep": result["ops_per_timestep"],
        "parameters": parameters["total"] if isinstance(parameters, dict) else parameters,
        "seconds": result["seconds"],
    }


def compare(run_dir, results, ngrams, grammars):
    """Prints the comparison on the real text, and writes `summary.json` and `curves.png`.

    Args:
        run_dir: the demo's folder.
        results: `{folder: result}` of the four runs.
        ngrams: result of `measured_ngrams` for the real text.
        grammars: the `tfmoe.data_pipelines.corpora.Grammars` of the first pair.
    """
    moe, dense = results["moe"], results["dense"]
    figures = {"kneser_ney": ngrams, "moe": moe, "dense": dense}
    figures = {name: figures_of(result) for name, result in figures.items()}
    print(f"\n{expert_table(run_dir / 'moe')}\n\n{table_of(figures)}")
    better = 1 - moe["perplexity"] / dense["perplexity"]
    print(
        f"\nAfter the same {moe['words_trained']:,} words, the mixture's test perplexity is "
        f"{abs(better):.1%} {'below' if better > 0 else 'above'} the dense model's."
    )
    draw_curves(run_dir, grammars)
    pair = {name: results[f"grammars/{name}"] for name in ("moe", "dense")}
    summary = {
        **figures,
        **words_of(moe),
        "grammars": {
            "perplexity": grammars.tables().perplexity,
            **{name: figures_of(result) for name, result in pair.items()},
            **words_of(pair["moe"]),
        },
    }
    RunDirectory(run_dir).write_json(run_dir / "summary.json", summary)  # last: marks the end
    print(f"Curves: {run_dir / 'curves.png'}   Summary: {run_dir / 'summary.json'}")


def words_of(result):
    """The number of words in training, and of tokens in the test."""
    return {"tokens": result["words_trained"], "test_tokens": result["tokens"]}


def draw_curves(run_dir, grammars):
    """Writes `curves.png`, with one panel per pair of models."""

    def histories(folder):
        names = {name: folder / name for name in ("moe", "dense")}
        return {LABELS[name]: RunDirectory(path).read_history() for name, path in names.items()}

    curves_side_by_side(
        {
            "A synthetic language": histories(run_dir / "grammars"),
            "Real text": histories(run_dir),
        },
        {"A synthetic language": ("the language itself", grammars.tables().perplexity)},
        run_dir / "curves.png",
    )


def expert_table(run_dir, max_rows=32):
    """A table of the experts of a run's first mixture: load, importance, characteristic words.

    Args:
        run_dir: the run's folder.
        max_rows: maximum number of rows. If there are more experts, the most and the least used
            ones are shown.
    """
    config, vocabulary, model = load_run(run_dir)
    files = find_splits(config).test
    lengths = survey(files).lengths
    batches = build_batches(config, files, vocabulary, training=False, lengths=lengths)
    name, use = next(iter(expert_use(model, batches).items()))
    order = by_load(use)
    shown = order if len(order) <= max_rows else order[: max_rows // 2] + order[-max_rows // 2 :]
    words = {expert: vocabulary.decode(use.characteristic_words(expert)) for expert in shown}
    unused = int((use.load == 0).sum())
    head = f"Use of the {len(order)} experts of {name} on the test text; {unused} unused"
    if len(shown) < len(order):
        head += f"; the {max_rows // 2} most and the {max_rows // 2} least used"
    return f"{head}\n{aligned([HEADING, *expert_rows(use, words)], '>>><')}"
