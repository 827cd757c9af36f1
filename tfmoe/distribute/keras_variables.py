"""Keras' variables that are created later than asked for.

`fit` builds a model that is not built yet, and creates its variables only after all layers were
called: outside of the contexts `sharded` and `drawing_alike` in which the layers asked for them.
Here a variable remembers these contexts. Keras has no hook for this, so `install` replaces private
methods.
"""

import contextlib

import keras

from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.shards import drawing_alike, draws_alike, sharded, sharding_unit


def install():
    """Replaces the methods, once."""
    replace(keras.Variable, "__init__", _always, _init)
    replace(keras.Variable, "_deferred_initialize", _always, _deferred_initialize)


def _always(variable):
    return True


def _init(variable, original, *args, **options):
    original(*args, **options)
    if variable._value is None:
        variable._asked_for_in = sharding_unit(), draws_alike()


def _deferred_initialize(variable, original):
    # A variable from before `install` has no such attribute.
    together, alike = getattr(variable, "_asked_for_in", (None, False))
    with (
        contextlib.nullcontext() if together is None else sharded(together),
        drawing_alike() if alike else contextlib.nullcontext(),
    ):
        original()
