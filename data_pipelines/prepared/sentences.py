"""Training batches of a language model."""

import os
import pathlib

import numpy as np

from tfmoe.data_pipelines.arguments import check_at_least
from tfmoe.data_pipelines.prepared.batches import TrainingBatches, check_ids, inputs_and_targets
from tfmoe.data_pipelines.prepared.order import Order
from tfmoe.data_pipelines.prepared.rows import Rows, prepare_rows
from tfmoe.data_pipelines.prepared.words import PreparedText
from tfmoe.data_pipelines.sentence_batches import bucketing_of
from tfmoe.data_pipelines.vocabulary import Vocabulary

LINES_AT_A_TIME = 1 << 20


class SentenceBatches(TrainingBatches):
    """Batches of a language model; `sentence_training_batches` makes them.

    Args:
        order: the `Order` of the rows.
        rows: the `Rows`.
        shards: the `Shards` of the text.
        table: int32 `[1 + words]`, the id of each word's number.
    """

    NUM_ARRAYS = 2

    def __init__(self, order: Order, rows: Rows, shards, table):
        super().__init__(order, rows)
        self._shards, self._table = shards, table

    def read(self, batch, replica=0, replicas=1):
        rows = self.order.rows_of(batch, replica, replicas)
        begins = self.rows.positions(0, rows.rows, self._shards)
        numbers = self._shards.read(begins, int(rows.steps[0]))
        check_ids(numbers, len(self._table), self._shards)
        return inputs_and_targets(self._table[numbers])


def sentence_training_batches(
    text: PreparedText,
    vocabulary: Vocabulary,
    folder: str | os.PathLike,
    *,
    batch_tokens: int,
    max_length: int,
    seed: int = 0,
) -> SentenceBatches:
    """Batches prepared text for training a language model.

    Rows and batches are those of `language_model_batches`, but every pass has them in another
    random order, drawn from the whole text.

    Args:
        text: what `prepare_text` returned.
        vocabulary: a `Vocabulary`.
        folder: the folder of prepared text, for the file that says where rows begin.
        batch_tokens: number of positions of a batch, padding included. A batch of S steps has
            `max(1, batch_tokens // S)` rows.
        max_length: largest S.
        seed: integer.

    Returns:
        A `SentenceBatches`. Its dataset yields `(inputs, targets)`, both int32 `[B, S]`, padded
        with 0.

    Raises:
        ValueError: if an argument is out of its range.
        TextError: if a file of the folder is damaged.
    """
    check_at_least(1, batch_tokens=batch_tokens, max_length=max_length)
    check_at_least(0, seed=seed)
    bucketing = bucketing_of(batch_tokens, max_length)
    rows = prepare_rows(
        pathlib.Path(folder),
        ["sentences", text.shards.identity, max_length],
        [lambda: rows_of_lines(text.shards, max_length)],
        bucketing,
    )
    order = Order(rows.counts, [1.0], bucketing, seed)
    return SentenceBatches(order, rows, text.shards, text.table(vocabulary))


def rows_of_lines(shards, max_length, lines_at_a_time=LINES_AT_A_TIME):
    """Yields `(begins, lengths)` of the rows of sentences, as `prepare_rows` takes them."""
    for line in range(0, shards.num_lines, lines_at_a_time):
        begins, lengths = shards.lines(line, line + lines_at_a_time)
        predictions = lengths + 1
        windows = -(-predictions // max_length)
        firsts = np.cumsum(windows) - windows
        window = np.arange(windows.sum()) - np.repeat(firsts, windows)
        begins = np.repeat(begins, windows) + window * max_length
        left = np.repeat(predictions, windows) - window * max_length
        yield begins[:, None], np.minimum(left, max_length)[:, None]
