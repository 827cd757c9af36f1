"""Keras' models under a `MixedStrategy`: rejects models that would fail later, or would train on
one device only.

Keras stores the strategy in whose scope a model was created (`_distribute_strategy`, a private
attribute; the methods that `install` replaces are private too).
"""

import keras
import tensorflow as tf

from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.keras_optimizer import check_scope
from tfmoe.distribute.workers import is_mixed

STEPS = ("fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch")


def install():
    """Replaces the methods once, in the classes that define them: Keras checks whether a model
    overrides `compile`.
    """
    for name in ("compile", *STEPS):
        owner = next(cls for cls in keras.Model.__mro__ if name in vars(cls))
        replace(owner, name, _is_concerned, _compile if name == "compile" else _step)


def _is_concerned(model):
    return is_mixed(tf.distribute.get_strategy()) or is_mixed(model._distribute_strategy)


def check_model(model):
    """Raises a `ValueError` for a model that was created outside of the current `MixedStrategy`
    scope.
    """
    scope = tf.distribute.get_strategy()
    if is_mixed(scope) and model._distribute_strategy is not scope:
        raise ValueError(
            f"model {model.name!r} was created outside of this MixedStrategy.scope(): create and "
            "compile the model inside `with strategy.scope():`"
        )


def _step(model, original, *args, **options):
    check_model(model)
    return original(*args, **options)


def _compile(model, original, *args, **options):
    """Compiles in the scope of the model's strategy, even if the caller is outside of it."""
    check_model(model)
    strategy = model._distribute_strategy
    with strategy.scope():
        original(*args, **options)
    try:
        _check_compiled(model, strategy)
    except ValueError:
        model.compiled = False
        raise


def _check_compiled(model, strategy):
    if model.run_eagerly and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"model {model.name!r} has run_eagerly=True, but MixedStrategy's collectives need "
            "graph mode: compile it with run_eagerly=False"
        )
    optimizer = model.optimizer
    while optimizer is not None:
        check_scope(optimizer, strategy)
        optimizer = getattr(optimizer, "inner_optimizer", None)
