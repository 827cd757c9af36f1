"""The n-gram baseline of a language model."""

import array
import time
from collections.abc import Iterable
from typing import Any

import numpy as np

from tfmoe.config.loader import load_config
from tfmoe.data_pipelines import END, START, UNKNOWN
from tfmoe.data_pipelines.text import sentences
from tfmoe.models import KneserNey
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.train import prepare_data


def evaluate_ngrams(name: str, overrides: Iterable[str] = (), order: int = 5) -> dict[str, Any]:
    """Counts the n-grams of a config's training text, and evaluates them on its test text, or on
    its validation text if it has no test text.

    Args:
        name: a YAML file, or the name of a shipped config.
        overrides: values of `--set`.
        order: number of words of the longest n-grams.

    Returns:
        The result of `measured_ngrams`, and `evaluated_on`.

    Raises:
        ConfigError: for an invalid config.
        ValueError: if the config is not a language model's, or has no text to evaluate on.
    """
    task = task_of(load_config(name, overrides))
    if task.corpus.kind != "language":
        raise ValueError(
            f"{name}: must be the config of a language model, but its model.name is "
            f"{task.config.model.name}"
        )
    vocabulary = prepare_data(task)
    evaluated_on = "test" if task.splits.test else "valid"
    files = task.splits.test or task.splits.valid
    if not files:
        raise ValueError(f"{name}: data.test and data.valid are empty: no text to evaluate on")
    for line in task.report(vocabulary):
        print(line, flush=True)
    result = measured_ngrams(task.splits.train, files, vocabulary, order)
    return {**result, "evaluated_on": evaluated_on}


def measured_ngrams(train, files, vocabulary, order=5):
    """Counts the n-grams of a text and evaluates them on another. Predicts the same tokens as
    `LanguageTask.evaluate`: all words, and the end of every sentence.

    Args:
        train: paths of the text to count.
        files: paths of the text to evaluate on.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary`.
        order: number of words of the longest n-grams.

    Returns:
        Dictionary: `perplexity`, number of `tokens` predicted, `oov` (tokens out of the
        vocabulary), `loss` in nats per token, `order`, `ngrams` of each order, their sum as
        `parameters`, `ops_per_timestep` (one multiply-add per order), `seconds` of counting.
    """
    start = time.perf_counter()
    model = KneserNey(word_ids(train, vocabulary), len(vocabulary), order, print_progress)
    seconds = time.perf_counter() - start
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


def print_progress(order, num_ngrams):
    """Prints the number of n-grams of an order."""
    print(f"{num_ngrams:,} {order}-grams", flush=True)


def word_ids(files, vocabulary):
    """The ids of text files, `<S> w₁ … wₙ </S>` for each sentence in turn: int32 `[N]`."""
    ids = array.array("i")
    for file in files:
        for _, words in sentences(file):
            ids.append(START)
            ids.extend(vocabulary.encode([word.decode("utf-8") for word in words]))
            ids.append(END)
    return np.frombuffer(ids, np.int32)


def ngrams_summary(result: dict[str, Any]) -> str:
    """The last line that `tfmoe ngram` prints."""
    return (
        f"{result['evaluated_on']}: Kneser-Ney {result['order']}-gram: perplexity "
        f"{result['perplexity']:.2f} ({result['loss']:.4f} nats) per token on "
        f"{result['tokens']:,} tokens (ends of sentences included), {result['oov']:,} of them out "
        f"of vocabulary; {result['parameters']:,} n-grams, counted in {result['seconds']:.0f} s"
    )
