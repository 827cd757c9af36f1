"""Keras' records of the layers inside a layer and around its call, of an optimizer's steps, and of
initializers.
"""

import contextlib

import keras
import tensorflow as tf
from keras.src.backend.common import global_state

from tfmoe.distribute.tensorflow_internals.contexts import replica_context

UNINITIALIZED = "uninitialized_variables"


class NoSavedModel:
    """A mixin of Keras layers that cannot be part of a SavedModel: `keras.Model.export` and
    `tf.saved_model.save` raise a `ValueError`. Files of Keras and checkpoints are not concerned.
    """

    def _trackable_children(self, save_type="checkpoint", **kwargs):
        if save_type == "savedmodel":
            raise ValueError(
                f"{type(self).__name__} cannot be exported: the experts of a token depend on the "
                "other tokens of the batch, so answers would depend on what is asked beside them, "
                "and on later words"
            )
        return super()._trackable_children(save_type, **kwargs)


class LossesOfReplicas:
    """A mixin of Keras layers that add losses: in a replica, `losses` has the losses that this
    replica added. Keras has one list, and the threads of a `MirroredStrategy` add to it in turn.
    """

    def add_loss(self, loss):
        super().add_loss(loss)
        replicas_of_losses(self)[id(loss)] = thread_of_replica()

    def _get_own_losses(self):
        losses, replica = super()._get_own_losses(), thread_of_replica()
        if replica is None:
            return losses
        owners = replicas_of_losses(self)
        return [loss for loss in losses if owners.get(id(loss), replica) == replica]

    def _clear_losses(self):
        super()._clear_losses()
        replicas_of_losses(self).clear()


def replicas_of_losses(layer):
    """The replica of each loss of a layer, by the loss' id; a dictionary that Keras does not
    track.
    """
    return vars(layer).setdefault("_replicas_of_losses", {})


def thread_of_replica():
    """The index of the replica whose thread this is; `None` outside of replicas, and where one
    function is traced for all of them.
    """
    context = replica_context()
    index = None if context is None else context.replica_id_in_sync_group
    return None if index is None else tf.get_static_value(index)


def inner_layers(layer):
    """The direct sublayers of a layer, as Keras tracks them."""
    return list(layer._flatten_layers(include_self=False, recursive=False))


def outermost_layer(layer):
    """The outermost layer or model of the current call. Must be called during a call: otherwise
    Keras would start a call context.
    """
    return layer._get_call_context().entry_layer


def call_context(layer):
    """An object that is the same during one call of the outermost layer or model. Must be called
    during a call, like `outermost_layer`.
    """
    return layer._get_call_context()


def training_of_call(layer) -> bool:
    """Whether the current call trains, for a layer whose `call` has no argument `training`. Must be
    called during a call, like `outermost_layer`.
    """
    return bool(layer._get_call_context().get_value("training"))


def add_metric(layer, metric):
    """Adds a metric to a layer that is built, as Keras does for attributes set before: a model
    around it reports the metric.
    """
    layer._metrics.append(metric)


def remove_metric(layer, metric):
    """Removes a metric of `add_metric`."""
    layer._metrics[:] = [other for other in layer._metrics if other is not metric]


def accumulation(optimizer):
    """Where an optimizer is in the accumulation of gradients.

    Args:
        optimizer: a Keras optimizer.

    Returns:
        `(position, length)`: the number of batches since the last step of the optimizer, an integer
        scalar tensor (or 0), and the number of batches for one step, an integer.
    """
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    length = optimizer.gradient_accumulation_steps or 1
    return (0, 1) if length == 1 else (optimizer._iterations.value % length, length)


@contextlib.contextmanager
def deferred_variables():
    """Variables that Keras creates in this context have an initializer and never a value.

    Yields:
        The `keras.StatelessScope`, which collects losses.
    """
    others = list(global_state.get_global_attribute(UNINITIALIZED, []))
    try:
        with keras.StatelessScope(collect_losses=True, initialize_variables=False) as scope:
            yield scope
    finally:
        global_state.set_global_attribute(UNINITIALIZED, others)


def initializer_of(variable):
    """The initializer, a function of shape and dtype, of a variable without a value."""
    return variable._initializer
