"""The n-gram model of a language model's text."""

import array
import time

import numpy as np

from tfmoe.config.loader import load_config
from tfmoe.data_pipelines import END, START, UNKNOWN
from tfmoe.data_pipelines.text import sentences
from tfmoe.models import KneserNey
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.train import prepare_data


def evaluate_ngrams(name, overrides=(), order=5):
    """Counts the n-grams of a config's training text, and evaluates them on its test text, or else
    its validation text.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: of `--set`.
        order: words of the longest n-grams.

    Returns:
        What `measured_ngrams` gives, and `evaluated_on`.

    Raises:
        ConfigError: for a config that cannot be used.
        ValueError: if it is not a language model's, or has no text to evaluate on.
    """
    task = task_of(load_config(name, overrides))
    if task.corpus.kind != "language":
        raise ValueError(
            f"{name}: must be the config of a language model, whose text has n-grams of one "
            f"language, but its model.name is {task.config.model.name}"
        )
    vocabulary = prepare_data(task)
    evaluated_on = "test" if task.splits.test else "valid"
    files = task.splits.test or task.splits.valid
    if not files:
        raise ValueError(f"{name}: data.test and data.valid are empty: there is nothing to measure")
    for line in task.report(vocabulary):
        print(line, flush=True)
    result = measured_ngrams(task.splits.train, files, vocabulary, order)
    return {**result, "evaluated_on": evaluated_on}


def measured_ngrams(train, files, vocabulary, order=5):
    """Counts the n-grams of a text and evaluates them on another, as `LanguageTask.evaluate` does a
    model: by the same words, the end of every sentence counted.

    Args:
        train, files: the texts, lists of paths.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary`.
        order: words of the longest n-grams.

    Returns:
        Dictionary: `perplexity`, `tokens` counted, `oov` of them, `loss` in nats per token,
        `order`, `ngrams` of each order, their sum as `parameters`, `ops_per_timestep` (a
        multiply-add for each order), `seconds` of counting.
    """
    begun = time.perf_counter()
    model = KneserNey(word_ids(train, vocabulary), len(vocabulary), order, print_progress)
    seconds = time.perf_counter() - begun
    ids = word_ids(files, vocabulary)
    losses = model.negative_log_likelihood(ids)
    loss = losses.mean()
    return {
        "perplexity": float(np.exp(loss)),
        "tokens": len(losses),
        "oov": int(np.count_nonzero(ids == UNKNOWN)),
        "loss": float(loss),
        "order": order,
        "ngrams": model.num_ngrams,
        "parameters": sum(model.num_ngrams),
        "ops_per_timestep": order,
        "seconds": seconds,
    }


def print_progress(order, number):
    """Says that the n-grams of an order are counted."""
    print(f"{number:,} {order}-grams", flush=True)


def word_ids(files, vocabulary):
    """The ids of text files, `<S> w₁ … wₙ </S>` of one sentence after another: int32 `[N]`."""
    ids = array.array("i")
    for file in files:
        for _, words in sentences(file):
            ids.append(START)
            ids.extend(vocabulary.encode([word.decode("utf-8") for word in words]))
            ids.append(END)
    return np.frombuffer(ids, np.int32)


def ngrams_summary(result):
    """What `tfmoe ngram` prints last."""
    return (
        f"{result['evaluated_on']}: Kneser-Ney {result['order']}-gram: perplexity "
        f"{result['perplexity']:.2f} ({result['loss']:.4f} nats) per token on "
        f"{result['tokens']:,} tokens (end of sentence counted), {result['oov']:,} of them out of "
        f"vocabulary; {result['parameters']:,} n-grams, counted in {result['seconds']:.0f} s"
    )
