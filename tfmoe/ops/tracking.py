"""Makes the containers of Keras layers visible to TensorFlow's checkpoints.

TensorFlow's checkpoints and SavedModels store the variables that they reach through an object's
attributes. Keras replaces lists and dictionaries by its own containers, which TensorFlow does not
search. TensorFlow does not search Keras' metrics and random generators either.
"""

import keras
import tensorflow as tf


def track(layer: keras.Layer, **children) -> None:
    """Makes children of a layer or model reachable for TensorFlow, so that
    `tf.train.Checkpoint(layer)` stores them.

    Nothing changes for Keras: weights, their order, their paths and the layout of `.keras` and
    `.weights.h5` files stay the same. Further calls add children.

    Args:
        layer: a Keras layer or model.
        **children: layers, variables, random generators, metrics, or lists and dictionaries (with
            string keys) of them. The argument's name is the name in the checkpoint. `None` is
            ignored.
    """
    module = getattr(layer, "_tracked_by_tensorflow", None)
    if module is None:
        # Keras neither wraps a module nor saves it; TensorFlow tracks the module's attributes.
        module = tf.Module(name="tracked")
        layer._tracked_by_tensorflow = module
    for name, child in children.items():
        if child is not None:
            setattr(module, name, trackable(child))


def trackable(child):
    """Converts a child of `track` to an object that TensorFlow tracks, with plain containers at
    every level.
    """
    if isinstance(child, (list, tuple)):
        return [trackable(item) for item in child]
    if isinstance(child, dict):
        return {name: trackable(item) for name, item in child.items()}
    if isinstance(child, keras.random.SeedGenerator):
        return child.state
    if isinstance(child, keras.metrics.Metric):
        return list(child.variables)
    return child
