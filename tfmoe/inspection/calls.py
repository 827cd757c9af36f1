"""What the mixtures of a Keras model decide while it runs."""

import keras
import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings


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
        with recording_routings() as recordings:
            self.model(inputs, training=False)
        # Keras does not know of a layer that a model keeps in an object of its own.
        recordings = [each for each in recordings if id(each.layer) in self._names]
        for each in recordings:
            each.check_graph(self._names[id(each.layer)])
        found = {}
        for each in recordings:
            found.setdefault(self._names[id(each.layer)], []).append(self._of_call(each))
        return found
