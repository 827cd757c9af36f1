"""Reads the rows of sharded variables from files of Keras.

Keras reads each variable of a file whole, and holds the whole file in memory if it fits. Here a
device reads its rows of a large sharded variable, and the file stays on disk. Keras has no hook for
this, so `install` replaces its methods.
"""

import numpy as np
from keras.src.saving import saving_lib

from tfmoe.distribute.checkpoint import cuts, shards_of
from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.tensorflow_internals import ShardedVariable, assign_rows

# The size from which a variable is read in parts, and of a part.
READ_BYTES = 16 * 2**20


class SavedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array in a file, which is read where it is used. A layer that computes with it gets a
    NumPy array.

    Args:
        dataset: `h5py.Dataset`.
    """

    def __init__(self, dataset):
        self.dataset = dataset
        self.shape, self.dtype, self.ndim = dataset.shape, dataset.dtype, dataset.ndim

    def __getitem__(self, index):
        return self.dataset[index]

    def __array__(self, dtype=None, copy=None):
        return np.array(self.dataset, dtype=dtype)

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        arrays = [np.asarray(x) if isinstance(x, SavedArray) else x for x in inputs]
        return getattr(ufunc, method)(*arrays, **options)

    def __getattr__(self, name):
        if name.startswith("__"):  # NumPy and TensorFlow ask for protocols
            raise AttributeError(name)
        return getattr(np.asarray(self), name)


def install():
    """Replaces the methods of Keras once."""
    replace(saving_lib.H5IOStore, "__getitem__", _is_one_file, _saved_array)
    replace(saving_lib, "is_memory_sufficient", _is_sharded, lambda model, original: False)


def _is_one_file(store):
    return type(store) is saving_lib.H5IOStore and store.mode == "r"


def _saved_array(store, original, key):
    dataset = saving_lib.safe_get_h5_dataset(store._h5_entry_group, key)
    is_large = dataset.size * dataset.dtype.itemsize >= READ_BYTES
    if is_large and np.issubdtype(dataset.dtype, np.floating):  # Keras stores bfloat16 as bytes
        return SavedArray(dataset)
    return original(key)


def _is_sharded(model):
    return any(map(_is_sharded_variable, model.variables))


def _is_sharded_variable(variable):
    value = variable._value
    return isinstance(value, ShardedVariable) and len(value.bounds) > 1


def assign_saved(variable, array):
    """Assigns a `SavedArray` to a sharded Keras variable of the same shape, row by row.

    Args:
        variable: a `keras.Variable`, whose value is a `ShardedVariable`.
        array: the `SavedArray`.
    """
    row_bytes = array.dtype.itemsize * int(np.prod(array.shape[1:]))
    for part, begin, end in shards_of(variable._value):
        for first, last in cuts(0, end - begin, row_bytes, READ_BYTES):
            assign_rows(part, first, last, array[begin + first : begin + last])
