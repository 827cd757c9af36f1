"""The mixtures of a Keras model, and what they decide while it runs."""

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import inner_layers
from tfmoe.layers import MoE
from tfmoe.layers.expert_metrics import shortest_path
from tfmoe.layers.recording import recording_routings


def mixtures_of(model):
    """The mixtures of a model, wherever they are in it.

    Args:
        model: a Keras model or layer.

    Returns:
        `{name: MoE}`, by the names of their metrics: the name of the layer, where several have the
        same after the names of the layers around it (`encoder_moe`), and where these are the same
        too before a number (`moe (2)`).
    """
    found = {}
    for layer in layers_within(model):
        if isinstance(layer, MoE):
            name, number = "_".join(shortest_path(model, layer)), 2
            unique = name
            while unique in found:
                unique, number = f"{name} ({number})", number + 1
            found[unique] = layer
    return found


def layers_within(layer):
    """All layers within a layer, each once, those within a layer right after it."""
    found = {}

    def visit(parent):
        for child in inner_layers(parent):
            if id(child) not in found:
                found[id(child)] = child
                visit(child)

    visit(layer)
    return list(found.values())


def inputs_of(batch):
    """The inputs of a batch: of `(inputs, …)` or `inputs`, as `fit` and `predict` take them."""
    return keras.utils.unpack_x_y_sample_weight(batch)[0]


class MixtureCalls:
    """Runs a model at evaluation, and computes something of each call of a mixture.

    Batches run in a `tf.function`; in a model with `compile(run_eagerly=True)` eagerly.

    Args:
        model: a built Keras model, on one device.
        of_call: a function of a `tfmoe.layers.recording.Recording`, which returns a structure of
            tensors.

    Call arguments:
        inputs: as for a call of the model.

    Returns:
        `{name of a mixture: list with what each of its calls gave}`, in the order in which they
        run.

    Raises:
        ValueError: if the model is not built; in a call, if a mixture runs in a loop or a function
            of TensorFlow within the model, out of which its routing cannot get.
    """

    def __init__(self, model, of_call):
        if not model.built:
            raise ValueError(
                f"{model.name} must be built before its mixtures can be followed: call it with a "
                "batch, or model.build(input_shape)"
            )
        self.model = model
        self.mixtures = mixtures_of(model)
        self._names = {id(layer): name for name, layer in self.mixtures.items()}
        self._of_call = of_call
        self._in_graph = tf.function(self._of_batch, autograph=False, reduce_retracing=True)

    def __call__(self, inputs):
        inputs = tf.nest.map_structure(
            lambda x: x if tf.is_tensor(x) else tf.convert_to_tensor(x), inputs
        )
        eager = getattr(self.model, "run_eagerly", False)
        return self._of_batch(inputs) if eager else self._in_graph(inputs)

    def _of_batch(self, inputs):
        graph = tf.compat.v1.get_default_graph()
        with recording_routings() as recordings:
            self.model(inputs, training=False)
        # Keras does not know of a layer that a model keeps in an object of its own.
        recordings = [each for each in recordings if id(each.layer) in self._names]
        hidden = [self._names[id(each.layer)] for each in recordings if each.graph is not graph]
        if hidden:
            raise ValueError(
                f"{hidden[0]} runs in a loop or function of TensorFlow within {self.model.name}, "
                "out of which its routing cannot get: make a keras.layers.RNN with unroll=True; of "
                "other loops use compile(run_eagerly=True), of a tf.function "
                "tf.config.run_functions_eagerly(True)"
            )
        found = {}
        for each in recordings:
            found.setdefault(self._names[id(each.layer)], []).append(self._of_call(each))
        return found
