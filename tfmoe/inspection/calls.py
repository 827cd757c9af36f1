"""The routing decisions of the mixtures in a Keras model, recorded during calls."""

from collections.abc import Callable

import keras
import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings


def inputs_of(batch):
    """The inputs of a batch `(inputs, …)` or `inputs`, as in `fit` and `predict`."""
    return keras.utils.unpack_x_y_sample_weight(batch)[0]


class MixtureCalls:
    """Runs a model in inference mode, and applies a function to each call of a mixture.

    Batches run in a `tf.function`, or eagerly after `compile(run_eagerly=True)`.

    Args:
        model: a built Keras model, on one device.
        function: function of a `tfmoe.layers.recording.Recording` that returns a structure of
            tensors.

    Call arguments:
        inputs: inputs of the model.

    Returns:
        `{name of the mixture: list of results, one per call}`, in order of execution.

    Raises:
        ValueError: if the model is not built, or, in a call, if a mixture runs in a TensorFlow loop
            or function within the model, from which its routing cannot be returned.
    """

    def __init__(self, model: keras.Model, function: Callable):
        if not model.built:
            raise ValueError(
                f"{model.name} must be built before its routing can be recorded: call it with a "
                "batch, or model.build(input_shape)"
            )
        self.model = model
        self.mixtures = mixtures_of(model)
        self._names = {id(layer): name for name, layer in self.mixtures.items()}
        self._function = function
        self._run_in_graph = tf.function(self._run, autograph=False, reduce_retracing=True)

    def __call__(self, inputs):
        inputs = tf.nest.map_structure(
            lambda x: x if tf.is_tensor(x) else tf.convert_to_tensor(x), inputs
        )
        eager = getattr(self.model, "run_eagerly", False)
        return self._run(inputs) if eager else self._run_in_graph(inputs)

    def _run(self, inputs):
        with recording_routings() as recordings:
            self.model(inputs, training=False)
        # Keras does not track a layer that a model stores inside an object of another class.
        recordings = [r for r in recordings if id(r.layer) in self._names]
        for recording in recordings:
            recording.check_graph(self._names[id(recording.layer)])
        results = {}
        for recording in recordings:
            name = self._names[id(recording.layer)]
            results.setdefault(name, []).append(self._function(recording))
        return results
