"""Keras' variables with deferred initialization.

When `fit` builds an unbuilt model, Keras creates the variables after all layers were called,
outside of the contexts `sharded` and `same_draws` in which the layers requested them. Here a
variable
stores these contexts. Keras has no hook for this, so `install` replaces private methods.
"""

import contextlib

import keras

from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.shards import in_same_draws, same_draws, sharded, sharding_unit


def install():
    """Replaces the methods once."""
    replace(keras.Variable, "__init__", _always, _init)
    replace(keras.Variable, "_deferred_initialize", _always, _deferred_initialize)


def _always(variable):
    return True


def _init(variable, original, *args, **options):
    original(*args, **options)
    if variable._value is None:
        variable._creation_contexts = sharding_unit(), in_same_draws()


def _deferred_initialize(variable, original):
    # A variable from before `install` has no such attribute.
    unit, is_same = getattr(variable, "_creation_contexts", (None, False))
    with (
        contextlib.nullcontext() if unit is None else sharded(unit),
        same_draws() if is_same else contextlib.nullcontext(),
    ):
        original()
