"""What Keras layers keep in lists and dictionaries, shown to TensorFlow.

TensorFlow's checkpoints and SavedModels hold what they reach from an object through its attributes.
Keras replaces lists and dictionaries by containers of its own, which TensorFlow does not look into.
Nor does it look into Keras' metrics and random generators.
"""

import keras
import tensorflow as tf


def track(layer, **children):
    """Lets TensorFlow reach what a layer or model keeps in containers, so that
    `tf.train.Checkpoint(layer)` stores it.

    Keras sees nothing of this: weights, their order, their paths and the layout of `.keras` and
    `.weights.h5` files stay as they are. Further calls add children.

    Args:
        layer: a Keras layer or model.
        **children: layers, variables, random generators and metrics, or lists and dictionaries
            (with strings for keys) of them, each under its name in the checkpoint. `None` is left
            out.
    """
    module = getattr(layer, "_tracked_by_tensorflow", None)
    if module is None:
        # Keras neither wraps a module nor writes it into files; TensorFlow tracks its attributes.
        module = tf.Module(name="tracked")
        layer._tracked_by_tensorflow = module
    for name, child in children.items():
        if child is not None:
            setattr(module, name, trackable(child))


def trackable(child):
    """A child of `track` as TensorFlow tracks it, with plain containers all the way down."""
    if isinstance(child, (list, tuple)):
        return [trackable(each) for each in child]
    if isinstance(child, dict):
        return {name: trackable(each) for name, each in child.items()}
    if isinstance(child, keras.random.SeedGenerator):
        return child.state
    if isinstance(child, keras.metrics.Metric):
        return list(child.variables)
    return child
