"""Frees graphs. TensorFlow keeps the gradient of every `tf.custom_gradient` in a graph, and with it
the graph, until the process ends: 30 MB for the training of some tests. Uses private TensorFlow.
"""

from tensorflow.python.framework import ops

REGISTRY = ops.gradient_registry._registry


def custom_gradients():
    """Names of the gradients of all graphs that were traced in this process."""
    return {name for name in list(REGISTRY) if name.startswith("CustomGradient-")}


def forget_custom_gradients(names):
    """Frees graphs. Graphs that are still referenced can be called, but not differentiated."""
    for name in names:
        del REGISTRY[name]
