"""The experts of each token as an output of a sparse KerasHub model.

Axes: B batch, S steps, K experts per token, T = B·S tokens.
"""

import keras
import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings


def route(model: keras.Model, inputs: dict) -> dict[str, tf.Tensor]:
    """Runs a sparse model in inference mode and returns the experts of each token.

    It can run in a `tf.function`, and be an endpoint of a `keras.export.ExportArchive`. The names
    and values are those of the signature `route` of `tfmoe export`, but padding has experts too,
    because KerasHub routes it. For statistics of a text, see `tfmoe.inspection.route_batches`.

    Args:
        model: a model after `tfmoe.keras_hub.sparsify`.
        inputs: the inputs of the model, with `token_ids` `[B, S]`.

    Returns:
        For each mixture, by the names of `tfmoe.inspection.mixtures_of`: `NAME_experts` `[B, S, K]`
        int32, sorted by gate value, largest first; and `NAME_gates` `[B, S, K]` float32.

    Raises:
        ValueError: the model has no mixture, or a mixture runs in a loop or a `tf.function` within
            the model.
    """
    names = {id(layer): name for name, layer in mixtures_of(model).items()}
    if not names:
        raise ValueError(f"{model.name} has no mixture of tfmoe: call sparsify(model) before route")
    with recording_routings() as recordings:
        model(inputs, training=False)
    outputs = {}
    for recording in recordings:
        name = names[id(recording.layer)]
        recording.check_graph(name)
        assignments = recording.routing.assignments
        shape = tf.concat([tf.shape(inputs["token_ids"]), [recording.layer.num_selected]], axis=0)
        by_assignment = {"experts": assignments.experts(), "gates": assignments.weights}
        for key, values in by_assignment.items():
            outputs[f"{name}_{key}"] = tf.reshape(tf.gather(values, assignments.slots), shape)
        outputs[f"{name}_gates"] = tf.cast(outputs[f"{name}_gates"], tf.float32)
    return outputs
