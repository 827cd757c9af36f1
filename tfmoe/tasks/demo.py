"""The demo: mixtures of experts beside dense models of the same cost, on a synthetic language of
known perplexity and on real text.
"""

from tfmoe.config.data_schema import corpus_of
from tfmoe.config.loader import load_config
from tfmoe.config.problems import ConfigError
from tfmoe.extras import require
from tfmoe.tasks.corpora import find_splits
from tfmoe.tasks.demo_report import compare, first_result
from tfmoe.tasks.ngrams import measured_ngrams
from tfmoe.tasks.progress import EpochsOfStage, Stages
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_vocabulary
from tfmoe.tasks.train import train_run
from tfmoe.training.run_directory import RunDirectory

# `{the run's folder: its config}`.
GRAMMARS = {"grammars/moe": "demo/grammars", "grammars/dense": "demo/grammars_dense"}
MODELS = {"moe": "demo/language_model", "dense": "demo/dense"}
# The CPU time of each stage on a fast core, in seconds; the remaining time is estimated from it.
SECONDS = {
    "grammars/moe": 19,
    "grammars/dense": 10,
    "text": 8,
    "moe": 20,
    "dense": 15,
    "kneser_ney": 4,
    "experts": 4,
}
TITLES = {
    "grammars/moe": "mixture of experts on a synthetic language",
    "grammars/dense": "dense model of the same cost on the synthetic language",
    "text": "generating the real text, once",
    "moe": "mixture of experts on the real text",
    "dense": "dense model of the same cost on the real text",
    "kneser_ney": "5-grams of the real text",
    "experts": "tokens that the experts specialise in",
}


def run_demo(run_dir, overrides=()):
    """Trains a mixture and a dense model on the grammars, then on real text, and compares them;
    resumes a demo that was stopped.

    Args:
        run_dir: the folder for all runs.
        overrides: values of `--set`, for the two models of the real text.

    Raises:
        MissingExtra: if matplotlib is not installed.
        ConfigError: for an override that makes a config invalid.
        ValueError: if there is no train, valid or test text.
    """
    require("matplotlib")
    grammars = {name: load_config(path) for name, path in GRAMMARS.items()}
    models = {name: load_config(path, overrides) for name, path in MODELS.items()}
    for config in models.values():
        if not corpus_of(config.data).generated:
            check_data(config)
    clear_old_runs(grammars | models, run_dir)
    trained = [name for name in grammars | models if (run_dir / name / "result.json").exists()]
    stages = Stages(SECONDS | dict.fromkeys(trained, 0))
    results = train_all(stages, grammars, run_dir)
    print(f"\n{first_result(corpus_of(grammars['grammars/moe'].data), results)}", flush=True)
    stages.begin("text", TITLES["text"])
    for config in models.values():
        check_data(config)
    results |= train_all(stages, models, run_dir)
    stages.begin("kneser_ney", TITLES["kneser_ney"])
    ngrams = ngrams_of(RunDirectory(run_dir / "moe"))
    stages.begin("experts", TITLES["experts"])
    compare(run_dir, results, ngrams, corpus_of(grammars["grammars/moe"].data))


def train_all(stages, configs, run_dir):
    """Trains the models of `{folder: Config}`. Returns `{folder: its result}`."""
    results = {}
    for name, config in configs.items():
        stages.begin(name, TITLES[name])
        run = RunDirectory(run_dir / name)
        if corpus_of(config.data).generated and run.result.exists():
            print("already trained")
            results[name] = run.read_result()
        else:  # for a finished run this checks that the text has not changed
            results[name] = train_run(
                config, run.path, resume=True, callbacks=[EpochsOfStage(stages)]
            )
    return results


def check_data(config):
    """Checks that the config has train, valid and test text."""
    for part, files in vars(find_splits(config)).items():
        if not files:
            raise ValueError(
                f"data.{part}: is empty, but the demo needs train, valid and test text"
            )


def clear_old_runs(configs, run_dir):
    """Removes runs of a finished demo, and runs whose config differs.

    Args:
        configs: `{folder: Config}` of the new runs.
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


def ngrams_of(run):
    """Returns the result of `measured_ngrams` for the text and vocabulary of a run.

    Args:
        run: a `RunDirectory`.
    """
    task = task_of(load_config(run.config))
    vocabulary = load_vocabulary(run, task)
    return measured_ngrams(task.splits.train, task.splits.test, vocabulary)
