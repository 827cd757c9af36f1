"""Keras' variables under a `MixedStrategy`.

- When `fit` builds an unbuilt model, Keras creates the variables after all layers were called,
  outside of the contexts `sharded` and `same_draws` in which the layers requested them. Here a
  variable stores these contexts.
- Keras draws a variable whole. Here the strategy gets an `InitialValue`, of which each device draws
  its rows.
- Keras' optimizers assign what a constraint returns, in each replica. Keras compares its shape with
  that of the whole variable. Here a replica can assign its shard. What a file holds is assigned
  row by row.

Keras has no hook for this, so `install` replaces private methods.
"""

import contextlib

import keras
import tensorflow as tf

from tfmoe.distribute.collectives import shards_experts
from tfmoe.distribute.initial_value import InitialValue
from tfmoe.distribute.keras_files import SavedArray, assign_saved
from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.shards import current_sharding, in_same_draws, same_draws, sharded
from tfmoe.distribute.tensorflow_internals import ShardedVariable
from tfmoe.distribute.workers import is_mixed


def install():
    """Replaces the methods once."""
    replace(keras.Variable, "__init__", _always, _init)
    replace(keras.Variable, "_deferred_initialize", _always, _deferred_initialize)
    replace(keras.Variable, "_initialize_with_initializer", _under_mixed_strategy, _initialize)
    replace(keras.Variable, "assign", _is_sharded, _assign)


def _always(variable):
    return True


def _under_mixed_strategy(variable):
    return is_mixed(tf.distribute.get_strategy())


def _is_sharded(variable):
    return isinstance(variable._value, ShardedVariable)


def _init(variable, original, *args, **options):
    original(*args, **options)
    if variable._value is None:
        variable._creation_contexts = current_sharding(), in_same_draws()


def _deferred_initialize(variable, original):
    # A variable from before `install` has no such attribute.
    sharding, is_same = getattr(variable, "_creation_contexts", (None, False))
    with (
        contextlib.nullcontext() if sharding is None else sharded(*sharding),
        same_draws() if is_same else contextlib.nullcontext(),
    ):
        original()


def _initialize(variable, original, initializer):
    variable._initialize(InitialValue(initializer, variable._shape, variable._dtype))


def _assign(variable, original, value):
    if isinstance(value, SavedArray) and value.shape == tuple(variable.shape):
        assign_saved(variable, value)
        return value
    if shards_experts():
        value = tf.convert_to_tensor(value, variable.dtype)
        if value.shape != variable.shape:
            variable._value.assign(value)
            return value
    return original(value)
