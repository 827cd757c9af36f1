"""Checkpoints that know nothing of devices: one logical tensor for every variable.

They are TensorFlow's own tensor bundles. Each worker writes the slices of its experts, and worker 0
all that is replicated; worker 0 then joins the parts under the checkpoint's name, which only moves
files, and only then does the file `checkpoint` point to it. Whatever happens before that leaves the
last one whole. Reading, a device takes the slices that it needs, however they were written.

Axes: E experts.
"""

import pathlib
import re
import shutil

import tensorflow as tf

from tfmoe.data_pipelines.atomic_write import atomic_write, remove_leftovers
from tfmoe.distribute.failures import GONE
from tfmoe.distribute.full_disks import full_disk_named
from tfmoe.distribute.tensorflow_internals import ShardedVariable
from tfmoe.distribute.workers import num_workers, wait_for_workers, worker_number


class Checkpoint:
    """Named variables in a folder, of which the last saved values are kept.

    Args:
        variables: `{name: tf.Variable}`; under a `MixedStrategy` sharded or replicated ones.
        directory: the folder; with several workers one that all of them see.
        name: of the checkpoints: `name-NUMBER`.
        strategy: the `MixedStrategy`, or `None`.
    """

    def __init__(self, variables, directory, name, strategy=None):
        self.variables = variables
        self.directory = pathlib.Path(directory)
        self.name = name
        self.worker = worker_number(strategy)
        self.num_workers = num_workers(strategy)
        self._strategy = strategy

    def latest(self):
        """The path of the last saved checkpoint, or `None`."""
        state = tf.train.get_checkpoint_state(str(self.directory))
        return None if state is None else state.model_checkpoint_path

    def save(self, number):
        """Saves the variables and forgets the checkpoint before. All workers must call it.

        Raises:
            OSError: if it cannot be written. The checkpoint before is then kept.
        """
        path = str(self.directory / f"{self.name}-{number}")
        unfinished = self.directory / f"unfinished-{self.name}-{number}"
        parts = [str(unfinished / f"worker-{worker}") for worker in range(self.num_workers)]
        names, slices, tensors = [], [], []
        for name, variable in self.variables.items():
            for tensor, slice_ in self._to_write(variable):
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
                    self._join(parts, path)
        except GONE:
            raise  # another worker, not the files
        except tf.errors.OpError as error:
            raise OSError(f"{self.directory}: no checkpoint written: {error.message}") from error
        finally:
            self.remove_leftovers()

    def _join(self, parts, path):
        tf.raw_ops.MergeV2Checkpoints(
            checkpoint_prefixes=parts, destination_prefix=path, delete_old_dirs=False
        )
        with atomic_write(self.directory / "checkpoint") as file:
            file.write(f'model_checkpoint_path: "{pathlib.Path(path).name}"\n')

    def _to_write(self, variable):
        """What this worker writes of a variable: tensors, and what part of it they are."""
        if isinstance(variable, ShardedVariable):
            for part, slice_ in slices_of(variable):
                yield part.read_value(), slice_
            return
        value = tf.convert_to_tensor(variable)  # of metrics a sum over workers: all must ask
        if self.worker == 0:
            yield value, ""

    def remove_leftovers(self):
        """Removes all checkpoints but the last, and what killed processes left of others; none if
        it is not known which is the last. Does nothing on all workers but the first.
        """
        if self.worker:
            return
        latest = self.latest()
        own = re.compile(rf"({re.escape(self.name)}-\d+)(_temp|\.index|\.data-\d+-of-\d+)")
        for path in self.directory.glob(f"{self.name}-*") if latest else ():
            found = own.fullmatch(path.name)
            if found and path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif found and found[1] != pathlib.Path(latest).name:
                path.unlink(missing_ok=True)
        for folder in self.directory.glob(f"unfinished-{self.name}-*"):
            shutil.rmtree(folder, ignore_errors=True)
        remove_leftovers(self.directory)

    def restore(self, path):
        """Gives the variables their saved values; a floating point type that is not the variable's
        is converted.

        Args:
            path: of a checkpoint, as from `latest`.

        Raises:
            ValueError: if it is damaged.
        """
        saved = reader_of(path).get_variable_to_dtype_map()
        names, slices, dtypes, places = [], [], [], []
        for name, variable in self.variables.items():
            if isinstance(variable, ShardedVariable):
                parts = list(slices_of(variable))
            else:
                parts = [(variable, "")]
            for part, slice_ in parts:
                names.append(name)
                slices.append(slice_)
                dtypes.append(type_to_read(part.dtype, saved.get(name)))
                places.append(part)
        try:
            values = tf.raw_ops.RestoreV2(
                prefix=path, tensor_names=names, shape_and_slices=slices, dtypes=dtypes
            )
        except tf.errors.OpError as error:
            raise ValueError(f"{path} is damaged: {error.message}") from error
        for place, value in zip(places, values, strict=True):
            place.assign(tf.cast(value, place.dtype))


def slices_of(variable):
    """The parts of a `ShardedVariable` that this process holds.

    Yields:
        `tf.Variable`, and the slice of the whole that it is, as TensorFlow writes it:
        `"8 512 1024 2,2:0,512:0,1024"`, shape first, then begin and length of each axis.
    """
    shape = variable.shape.as_list()
    whole = "".join(f":0,{length}" for length in shape[1:])
    sizes = " ".join(map(str, shape))
    for part, (begin, end) in zip(variable.local_parts(), variable.local_bounds(), strict=True):
        if end > begin:
            yield part, f"{sizes} {begin},{end - begin}{whole}"


def type_to_read(wanted, saved):
    """The type to read a variable's value in: the saved one if it can be converted to that of the
    variable; else the variable's, and TensorFlow says what it found.
    """
    convertible = saved is not None and saved.is_floating and wanted.is_floating
    return saved if convertible else wanted


def shapes_in(path):
    """`{name: shape}` of what a checkpoint holds.

    Raises:
        ValueError: if it is damaged.
    """
    return reader_of(path).get_variable_to_shape_map()


def reader_of(path):
    """TensorFlow's reader of a checkpoint.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        return tf.train.load_checkpoint(path)
    except (tf.errors.OpError, IndexError) as error:  # TensorFlow raises both
        raise ValueError(f"{path} is damaged: {error}") from error
