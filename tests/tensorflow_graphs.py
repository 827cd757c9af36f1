"""TensorFlow keeps the gradient of every `tf.custom_gradient` in a graph for as long as the process
lives, and with it the graph: 30 MB for a training of some tests. This is private to TensorFlow.
"""

from tensorflow.python.framework import ops

REGISTRY = ops.gradient_registry._registry


def custom_gradients():
    """Names of the gradients of all graphs that were traced in this process."""
    return {name for name in list(REGISTRY) if name.startswith("CustomGradient-")}


def forget_custom_gradients(names):
    """Lets graphs go. Those that live on can be called, but no longer differentiated."""
    for name in names:
        del REGISTRY[name]
