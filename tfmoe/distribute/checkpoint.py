"""Checkpoints that are independent of the devices: one logical tensor for every variable.

They are TensorFlow's tensor bundles. Each worker writes the slices of its experts, and worker 0
also writes the replicated variables. Worker 0 then merges the parts under the checkpoint's name,
which only moves files, and updates the file `checkpoint` last. A failure before that leaves the
previous checkpoint intact. On restore each device reads the slices that it needs, whatever slices
were written.

Axes: E experts.
"""

import functools
import itertools
import math
import pathlib
import re
import shutil
from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf

from tfmoe.data_pipelines.atomic_write import atomic_write, remove_leftovers
from tfmoe.distribute.failures import ABORT_ERRORS
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.distribute.tensorflow_internals import ShardedVariable, assign_rows
from tfmoe.distribute.workers import num_workers, wait_for_workers, worker_index

# Large variables are saved in slices of this size. TensorFlow reads a slice whole, so a device that
# restores its rows reads few others, and needs little memory for values that are not yet assigned.
SLICE_BYTES = 16 * 2**20
# The name of the size in a checkpoint. Those of 0.1.0 have larger slices, and no such name.
SLICE_BYTES_NAME = "tfmoe/slice_bytes"


class Checkpoint:
    """Saves and restores named variables in a folder; the last checkpoint is kept.

    Args:
        variables: `{name: tf.Variable}`; under a `MixedStrategy` sharded or replicated variables.
        directory: the folder; with several workers it must be shared by all of them.
        name: the prefix of the checkpoints: `name-NUMBER`.
        strategy: the `MixedStrategy`, or `None`.
    """

    def __init__(self, variables, directory, name, strategy=None):
        self.variables = variables
        self.directory = pathlib.Path(directory)
        self.name = name
        self.worker = worker_index(strategy)
        self.num_workers = num_workers(strategy)
        self._strategy = strategy

    def latest(self):
        """Returns the path of the last saved checkpoint, or `None`."""
        state = tf.train.get_checkpoint_state(str(self.directory))
        return None if state is None else state.model_checkpoint_path

    def save(self, number):
        """Saves the variables and removes the previous checkpoint. Every worker must call it.

        Args:
            number: the number in the checkpoint's name.

        Raises:
            OSError: the checkpoint cannot be written. The previous checkpoint is then kept.
        """
        path = str(self.directory / f"{self.name}-{number}")
        unfinished = self.directory / f"unfinished-{self.name}-{number}"
        parts = [str(unfinished / f"worker-{worker}") for worker in range(self.num_workers)]
        names, slices, tensors = [], [], []
        if self.worker == 0:
            names, slices = [SLICE_BYTES_NAME], [""]
            tensors = [tf.constant(SLICE_BYTES, tf.int64)]
        for name, variable in self.variables.items():
            for tensor, slice_ in self._tensors_and_slices(variable):
                names.append(name)
                slices.append(slice_)
                tensors.append(tensor)
        try:
            with full_disk_named(path):
                unfinished.mkdir(parents=True, exist_ok=True)
                tf.raw_ops.SaveV2(
                    prefix=parts[self.worker],
                    tensor_names=names,
                    shape_and_slices=slices,
                    tensors=tensors,
                )
                wait_for_workers(self._strategy)
                if self.worker == 0:
                    self._merge(parts, path)
        except ABORT_ERRORS:
            raise  # the error is that of another worker, not of the files
        except tf.errors.OpError as error:
            raise OSError(f"{self.directory}: no checkpoint written: {error.message}") from error
        finally:
            self.remove_leftovers()

    def _merge(self, parts, path):
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=parts, destination_prefix=path, delete_old_dirs=False
        )
        with atomic_write(self.directory / "checkpoint") as file:
            file.write(f'model_checkpoint_path: "{pathlib.Path(path).name}"\n')

    def _tensors_and_slices(self, variable):
        """Yields the tensors that this worker writes for a variable, each with its slice."""
        if isinstance(variable, ShardedVariable):
            for part, begin, end in shards_of(variable):
                yield from sliced(part.read_value(), variable.shape.as_list(), begin, end)
            return
        value = tf.convert_to_tensor(variable)  # all workers: a metric's value is a collective sum
        if self.worker == 0:
            shape = value.shape.as_list()
            yield from sliced(value, shape, 0, shape[0] if shape else 1)

    def remove_leftovers(self):
        """Removes all checkpoints but the last, and the unfinished ones of killed processes.

        Finished checkpoints are kept if the last one is unknown. Only worker 0 removes files.
        """
        if self.worker:
            return
        latest = self.latest()
        pattern = re.compile(rf"({re.escape(self.name)}-\d+)(_temp|\.index|\.data-\d+-of-\d+)")
        for path in self.directory.glob(f"{self.name}-*") if latest else ():
            match = pattern.fullmatch(path.name)
            if match and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif match and match[1] != pathlib.Path(latest).name:
                path.unlink(missing_ok=True)
        for folder in self.directory.glob(f"unfinished-{self.name}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        remove_leftovers(self.directory)

    def restore(self, path):
        """Assigns the saved values to the variables. Floating-point values are cast to the dtype of
        the variable.

        A device reads its experts, about `SLICE_BYTES` at a time. If the checkpoint is damaged,
        some variables may already have their saved values.

        Args:
            path: the checkpoint, as returned by `latest`.

        Raises:
            ValueError: the checkpoint is damaged.
        """
        saved_dtypes = open_reader(path).get_variable_to_dtype_map()
        slice_bytes = None
        if SLICE_BYTES_NAME in saved_dtypes:
            (size,) = read(path, [SLICE_BYTES_NAME], [""], [tf.int64])
            slice_bytes = int(size)
        reads = []
        for name, variable in self.variables.items():
            dtype = dtype_to_read(variable.dtype, saved_dtypes.get(name))
            reads += [Read(name, dtype, *part) for part in parts_to_read(variable, slice_bytes)]
        for batch in batches_of(reads):
            names, dtypes, slices, assigns, _ = zip(*batch, strict=True)
            for assign, value in zip(assigns, read(path, names, slices, dtypes), strict=True):
                assign(value)


def read(path, names, slices, dtypes):
    """Reads tensors of a checkpoint.

    Args:
        path: the checkpoint.
        names, slices, dtypes: one for each tensor; a slice is in TensorFlow's notation.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    try:
        return tf.raw_ops.RestoreV2(
            prefix=path, tensor_names=names, shape_and_slices=slices, dtypes=dtypes
        )
    except tf.errors.OpError as error:
        raise ValueError(f"{path} is damaged: {error.message}") from error


class Read(NamedTuple):
    """A part of a saved variable to read.

    Attributes:
        name: of the variable.
        dtype: in which to read it.
        slice: of the logical tensor, in TensorFlow's notation; empty for the whole.
        assign: a function of the value.
        num_bytes: its size.
    """

    name: str
    dtype: tf.DType
    slice: str
    assign: Callable
    num_bytes: int


def parts_to_read(variable, slice_bytes):
    """Divides a variable into parts to read.

    Args:
        variable: as for `Checkpoint`.
        slice_bytes: of the slices that were saved; `None` to read each shard in one part.

    Yields:
        The last three fields of a `Read`.
    """
    if not isinstance(variable, ShardedVariable):
        size = variable.shape.num_elements() * variable.dtype.size
        yield "", lambda value: variable.assign(tf.cast(value, variable.dtype)), size
        return
    shape = variable.shape.as_list()
    row_bytes = math.prod(shape[1:]) * variable.dtype.size
    for part, begin, end in shards_of(variable):
        for first, last in cuts(begin, end, row_bytes, slice_bytes):
            assign = functools.partial(assign_rows, part, first - begin, last - begin)
            yield slice_name(shape, first, last), assign, row_bytes * (last - first)


def batches_of(reads):
    """Groups consecutive `Read`s of at most `SLICE_BYTES` together."""
    batch, size = [], 0
    for read in reads:
        if batch and size + read.num_bytes > SLICE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(read)
        size += read.num_bytes
    if batch:
        yield batch


def shards_of(variable):
    """Yields the shards of a `ShardedVariable` that this process holds: a `tf.Variable`, its first
    row, and the row behind its last. Shards without rows are left out.
    """
    for part, (begin, end) in zip(variable.local_parts(), variable.local_bounds(), strict=True):
        if end > begin:
            yield part, begin, end


def cuts(begin, end, row_bytes, slice_bytes):
    """Divides rows into slices, at the same rows of the variable whatever the shards are.

    Args:
        begin, end: the first row, and the one behind the last.
        row_bytes: of a row.
        slice_bytes: of a slice, which has at least one row; `None` for one slice.

    Returns:
        List of pairs `(begin, end)`.
    """
    if slice_bytes is None:
        return [(begin, end)]
    step = max(1, slice_bytes // max(1, row_bytes))
    edges = [begin, *range(begin - begin % step + step, end, step), end]
    return list(itertools.pairwise(edges))


def sliced(rows, shape, begin, end):
    """Cuts rows of a variable into the slices to save.

    Args:
        rows: tensor of the rows, or of the whole variable.
        shape: the shape of the whole variable.
        begin, end: the rows.

    Yields:
        A tensor, and its slice in TensorFlow's notation, which is empty for a whole variable.
    """
    row_bytes = math.prod(shape[1:]) * rows.dtype.size
    edges = cuts(begin, end, row_bytes, SLICE_BYTES)
    if edges == [(0, shape[0] if shape else 1)]:
        yield rows, ""
        return
    for first, last in edges:
        yield rows[first - begin : last - begin], slice_name(shape, first, last)


def slice_name(shape, begin, end):
    """Rows of a tensor in TensorFlow's notation: `"8 512 1024 2,2:0,512:0,1024"`, the shape, then
    begin and length for each axis.
    """
    other_axes = "".join(f":0,{length}" for length in shape[1:])
    return f"{' '.join(map(str, shape))} {begin},{end - begin}{other_axes}"


def dtype_to_read(dtype, saved_dtype):
    """The dtype in which to read a value: the saved dtype if it can be cast to the variable's
    `dtype`; otherwise `dtype`, so that TensorFlow reports the mismatch.
    """
    convertible = saved_dtype is not None and saved_dtype.is_floating and dtype.is_floating
    return saved_dtype if convertible else dtype


def shapes_in(path):
    """Returns `{name: shape}` for the variables in a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    shapes = open_reader(path).get_variable_to_shape_map()
    shapes.pop(SLICE_BYTES_NAME, None)
    return shapes


def open_reader(path):
    """Opens TensorFlow's reader for a checkpoint.

    Raises:
        ValueError: the checkpoint is damaged.
    """
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, IndexError) as error:  # TensorFlow raises both
        raise ValueError(f"{path} is damaged: {error}") from error
