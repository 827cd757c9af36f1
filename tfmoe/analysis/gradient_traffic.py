"""The traffic of the gradients of replicated weights in a training step on several devices.

Symbols: R devices, V vocabulary, D model, S candidates of a sampled softmax, n words that a device
looks up in a step.

Most gradients are dense, and all-reduced. A device sends `2·(R-1)/R` of their bytes in a ring. The
gradients of tables have the rows that a step uses, each of which is sent to the device that sums it
and then to all devices (`tfmoe.distribute.table_gradients`). With `U_1` different rows on a device
and `U_R` on all devices together, a device sends

    (U_1 + U_R) · (4 + bytes of a row) · (R-1)/R

where 4 bytes are the row's index. This is not more than a dense all-reduce would send, except for
the indices and for padding, which is not included.

The number of rows depends on the text. The expectation assumes that words are drawn from the
log-uniform distribution of the sampled softmax (`tfmoe.ops.sampling`), with `P(v)`:

    U_r = Σ_v 1 - (1 - P(v))^(r·n) · (1 - Q(v))

where Q is the probability of being among the S candidates, which all devices share. The bound
assumes that no word occurs twice.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tfmoe.analysis.variables import GraphBuild
from tfmoe.models.word_predictor import Table

INDEX_BYTES = 4


def gradient_traffic(
    model: keras.Model, tokens: int, devices: int = 1, built: GraphBuild | None = None
) -> dict[str, int]:
    """Computes the bytes that each device sends for the gradients of replicated weights.

    Args:
        model: a `tfmoe.models.LanguageModel` or `TranslationModel`, built or not.
        tokens: positions of a batch on each device, source and target together.
        devices: R.
        built: the model's `GraphBuild`; `None` to create it.

    Returns:
        A dictionary of integers, in bytes, rounded up:

        - `dense`: dense gradients.
        - `tables`: gradients of tables, for words of the log-uniform distribution.
        - `tables_at_most`: the same if no word occurs twice.
        - `bytes_sent`: `dense + tables`.
    """
    built = built or GraphBuild(model)
    tables = model.tables(tokens)
    vocabulary_size = model.vocabulary_size
    variables = built.variables()
    replicated = sum(v.bytes for v in variables if v.is_replicated(devices))
    size = tf.as_dtype(model.variable_dtype).size
    in_tables = sum(vocabulary_size * table.width * size for table in tables)

    def sent(num_bytes):
        return math.ceil(num_bytes * (devices - 1) / devices)

    def sent_for_tables(count_rows):
        return sent(
            sum(
                (INDEX_BYTES + table.width * size)
                * sum(count_rows(table, vocabulary_size, replicas) for replicas in (1, devices))
                for table in tables
            )
        )

    dense, expected = sent(2 * (replicated - in_tables)), sent_for_tables(expected_rows)
    return {
        "dense": dense,
        "tables": expected,
        "tables_at_most": sent_for_tables(most_rows),
        "bytes_sent": dense + expected,
    }


def expected_rows(table: Table, vocabulary_size: int, replicas: int) -> float:
    """The expected number of different rows that devices use, as in the head of this module.

    Args:
        table: the rows that one device looks up.
        vocabulary_size: V.
        replicas: r, the number of devices whose words are counted together.
    """
    ids = np.arange(vocabulary_size, dtype=np.float64)
    probability = np.log1p(1 / (ids + 1)) / math.log(vocabulary_size + 1)
    log_unused = replicas * table.words * np.log1p(-probability)
    if table.candidates:
        log_unused -= probability * time_of_candidates(probability, table.candidates)
    return float(-np.sum(np.expm1(log_unused)))


def time_of_candidates(probability: np.ndarray, candidates: int) -> float:
    """The time t at which `Σ_v 1 - exp(-P(v)·t)` is S: the expected number of different words
    that a Poisson process of rate 1 has drawn.

    Args:
        probability: `[V]`, P.
        candidates: S, less than V.
    """
    low, high = 0.0, 1.0
    while -np.sum(np.expm1(-probability * high)) < candidates:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        is_early = -np.sum(np.expm1(-probability * middle)) < candidates
        low, high = (middle, high) if is_early else (low, middle)
    return low


def most_rows(table: Table, vocabulary_size: int, replicas: int) -> int:
    """The number of rows that devices use if no word occurs twice; arguments as above."""
    return min(vocabulary_size, replicas * table.words + table.candidates)
