"""Training batches of prepared text, read by their number."""

import abc
import contextlib

import numpy as np
import tensorflow as tf

from tfmoe.data_pipelines.prepared.cached import damage
from tfmoe.data_pipelines.prepared.order import Order
from tfmoe.data_pipelines.prepared.rows import Rows
from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.vocabulary import END, START

BATCHES_AT_A_TIME = 2


class TrainingBatches(abc.ABC):
    """Batches of prepared text, in the order that a seed decides.

    Args:
        order: the `Order` of their rows.
        rows: the `Rows`.

    Attributes:
        NUM_ARRAYS: number of arrays of a batch.
    """

    NUM_ARRAYS: int

    def __init__(self, order: Order, rows: Rows):
        self.order, self.rows = order, rows
        self._error: TextError | None = None

    def __len__(self):
        """The number of batches in a pass."""
        return self.order.batches

    @abc.abstractmethod
    def read(self, batch: int, replica: int = 0, replicas: int = 1) -> tuple[np.ndarray, ...]:
        """Reads rows of a batch, and nothing else.

        Args:
            batch: number of the batch, from 0, through all passes.
            replica, replicas: which rows of the B of the batch: `B·r//R` to `B·(r+1)//R`.

        Returns:
            The arrays of a batch, int32.
        """

    @staticmethod
    def structure(arrays):
        """What the dataset yields of the arrays of `read`."""
        return tuple(arrays)

    def dataset(
        self,
        start_batch: int = 0,
        first_replica: int = 0,
        num_local: int = 1,
        replicas: int = 1,
    ) -> tf.data.Dataset:
        """Returns an endless dataset.

        Args:
            start_batch: number of the first batch. It takes no time to begin late.
            first_replica: r of the first replica of this process.
            num_local: number of replicas of this process.
            replicas: R, the number of all replicas.

        Returns:
            Dataset of the rows of replica r, those of r + 1, …, of each batch.
        """

        def read(number):
            batch, local = divmod(int(number), num_local)
            try:
                return self.read(batch, first_replica + local, replicas)
            except TextError as error:
                self._error = error
                raise

        @tf.autograph.experimental.do_not_convert
        def load(number):
            arrays = tf.numpy_function(read, [number], [tf.int32] * self.NUM_ARRAYS)
            for array in arrays:
                array.set_shape([None, None])
            return self.structure(arrays)

        numbers = tf.data.Dataset.counter(start_batch * num_local)
        options = tf.data.Options()
        options.deterministic = True
        batches = numbers.map(load, num_parallel_calls=BATCHES_AT_A_TIME).with_options(options)
        return batches.prefetch(2 * num_local)

    @contextlib.contextmanager
    def errors_named(self):
        """Within it, an error of TensorFlow in a dataset becomes the `TextError` that is its cause,
        if there is one.
        """
        try:
            yield
        except tf.errors.OpError as error:
            raise (self._error or error) from error


def check_ids(ids, limit, shards):
    """Raises a `TextError` if an id is not from 0 to below `limit`.

    Args:
        ids: integers, of any shape.
        limit: number of ids.
        shards: the `Shards` that they were read from.
    """
    if ids.size and not 0 <= ids.min() <= ids.max() < limit:
        raise damage(shards.folder / "index.json", "its shards have ids that do not exist")


def inputs_and_targets(rows):
    """Makes inputs and targets of what `Shards.read` returns, in place.

    Args:
        rows: int32 `[B, 1 + S]`: ids: the one before each row, and the row with what follows it.

    Returns:
        `(inputs, targets)`, int32 `[B, S]`. The first input is `START` where a line begins; behind
        a target `END` all is 0.
    """
    ended = np.logical_or.accumulate(rows[:, 1:] == END, axis=1)
    rows[:, 1:][ended] = END
    rows[rows[:, 0] == END, 0] = START
    return rows[:, :-1], rows[:, 1:]
