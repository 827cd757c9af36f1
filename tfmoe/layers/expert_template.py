"""A Keras layer as the description of an expert.

Axes: A rows (assignments).
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import deferred_variables, initializer_of
from tfmoe.layers.matrix_products import multiply_adds
from tfmoe.layers.mixture_layer import layers_within, mixtures_of


class Weight(NamedTuple):
    """A weight of the layer.

    Attributes:
        name: its path within the layer, with underscores.
        shape: tuple of integers.
        dtype: name of the dtype.
        initializer: a function of shape and dtype.
        regularizer: a function of the weight, or `None`.
        constraint: a function of the weight, or `None`.
    """

    name: str
    shape: tuple
    dtype: str
    initializer: object
    regularizer: object
    constraint: object


class ExpertTemplate:
    """A copy of a Keras layer that has no weights of its own: they are arguments of a call.

    The layer must be a function of its input and its trainable weights. A layer with other
    variables (`BatchNormalization`; `Dropout`, which has a random state) or with losses of
    activations is refused: as far as possible here, otherwise in `build`. Normalize with
    `LayerNormalization` or `GroupNormalization`, and put dropout behind the mixture. Regularizers
    and constraints of weights are those of each expert.

    Keras and TensorFlow do not track the layer, because it is not an attribute of another layer.

    Args:
        layer: a Keras layer with one input and one output that is not built, a
            `keras.Sequential` without `Input` for several layers; or a serialized layer. It is
            copied. Register classes of your own with `keras.saving.register_keras_serializable`.

    Attributes:
        config: the serialized layer.
        name: the layer's name.
        weights: list of `Weight`, after `build`.
        example_shape: the shape of an example, after `build`.
        output_shape: the shape of an example's output, after `build`.

    Raises:
        ValueError: the layer is not a layer, is built, or cannot be an expert.
    """

    def __init__(self, layer):
        if isinstance(layer, dict):
            layer = deserialized(layer)
        if not isinstance(layer, keras.layers.Layer):
            raise ValueError(f"experts must be a Keras layer or None, got {layer!r}")
        check(layer)
        self.config = keras.saving.serialize_keras_object(layer)
        self.name = layer.name
        self.weights: list = []
        self.example_shape = self.output_shape = None
        self._layer = copy_of(layer)
        self._built: keras.Layer | None = None

    def build(self, examples_shape):
        """Builds a copy for examples `[A, *example_shape]`. Nothing is allocated.

        Raises:
            ValueError: the layer cannot be built for such examples, or cannot be an expert.
        """
        example_shape = tuple(examples_shape[1:])
        if example_shape == self.example_shape:
            return
        if not all(example_shape):
            raise ValueError(f"experts need examples with known axes, got {example_shape}")
        layer = copy_of(self._layer)
        try:
            traced = trace(layer, example_shape)
        except Exception as error:
            raise ValueError(
                f"experts must be a layer for examples of the shape {example_shape}, and "
                f"{self.name!r} is not: {error} (for examples with more axes give the mixture "
                "gate_inputs, which have the axes of its tokens)"
            ) from error
        for problem in problems(layer, traced):
            raise ValueError(f"experts cannot be copies of {self.name!r}: {problem}")
        self.output_shape, self.weights = tuple(traced.outputs.shape[1:]), traced.weights
        self._built, self.example_shape = layer, example_shape

    def ops(self):
        """Multiply-adds for one example: all matrix products and convolutions.

        Raises:
            NotImplementedError: the layer has a loop.
        """
        example = tf.TensorSpec([1, *self.example_shape], self._built.compute_dtype)
        weights = [tf.TensorSpec(weight.shape, weight.dtype) for weight in self.weights]
        function = tf.function(lambda example, *weights: self(example, weights), autograph=False)
        graph = function.get_concrete_function(example, *weights).graph
        try:
            return multiply_adds(graph)
        except NotImplementedError as error:
            raise NotImplementedError(f"{self.name!r}: {error} are not known") from error

    def __call__(self, examples, weights, training=False):
        """Computes the layer.

        Args:
            examples: `[A, *example_shape]`.
            weights: list of tensors, one for each of `self.weights`.
            training: whether the step trains.
        """
        values = list(zip(self._built.trainable_variables, weights, strict=True))
        with keras.StatelessScope(values):
            return self._built(examples, training=training)


def deserialized(config):
    """A layer from its serialized form."""
    try:
        return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError) as error:
        raise ValueError(f"experts must be a serialized Keras layer: {error}") from error


def copy_of(layer):
    """A layer with the same configuration. Classes within it need not be registered."""
    classes = {type(inner).__name__: type(inner) for inner in layers_within(layer)}
    with keras.saving.CustomObjectScope(classes):
        return type(layer).from_config(layer.get_config())


def check(layer):
    """Raises a `ValueError` for a layer that cannot be an expert, before it is built."""
    if layer.trainable_variables:
        raise ValueError(
            f"experts must be a layer that is not built, because experts have other weights, got "
            f"{layer.name!r}, which has {len(layer.trainable_variables)} (for several layers use "
            "keras.Sequential without an Input)"
        )
    if mixtures_of(layer):
        raise ValueError(
            f"experts must not contain mixtures, got {layer.name!r} with "
            f"{', '.join(mixtures_of(layer))} (for a hierarchical mixture use groups=…)"
        )
    for inner in (layer, *layers_within(layer)):
        is_stateful = isinstance(inner, keras.layers.BatchNormalization)
        if is_stateful or is_random(inner):
            raise ValueError(
                f"experts must not contain {type(inner).__name__}, a layer with a state or random "
                f"numbers, got {layer.name!r} (use LayerNormalization or GroupNormalization; for "
                "dropout a layer after the mixture, or hidden_units=… with expert_dropout=…)"
            )


def is_random(layer):
    """Whether a layer without inner layers draws random numbers: it has the state of a generator.

    Keras' recurrent cells have one even without dropout.
    """
    rates = [getattr(layer, name, None) for name in ("dropout", "recurrent_dropout")]
    has_state = bool(layer.non_trainable_variables) and not layers_within(layer)
    return has_state and rates != [0, 0]


class Traced(NamedTuple):
    """What a call of a layer showed.

    Attributes:
        outputs: what the call returned, symbolic.
        weights: list of `Weight`, of the trainable variables.
        scope: the `keras.StatelessScope` of the call.
        before: the variables before the layer was built, states of random generators.
    """

    outputs: object
    weights: list
    scope: keras.StatelessScope
    before: list


def trace(layer, example_shape):
    """Builds a layer with a symbolic call, without allocating variables: returns `Traced`."""
    before = list(layer.variables)
    function = tf.function(lambda examples: layer(examples, training=True), autograph=False)
    with deferred_variables() as scope:
        spec = tf.TensorSpec([None, *example_shape], layer.compute_dtype)
        outputs = function.get_concrete_function(spec).structured_outputs
        weights = [weight_of(variable, layer) for variable in layer.trainable_variables]
    return Traced(outputs, weights, scope, before)


def problems(layer, traced):
    """Yields why a layer cannot be an expert.

    Args:
        layer: the built layer.
        traced: its `Traced`.
    """
    if not layer.trainable_variables:
        yield "it has no trainable weights"
    known = {id(variable) for variable in traced.before}
    for variable in layer.non_trainable_variables:
        if traced.scope.get_current_value(variable) is not None:
            yield f"it updates a state, {variable.path}"
        elif id(variable) not in known:
            yield f"it has a frozen weight or a state, {variable.path}"
    if traced.scope.losses:
        yield (
            "it adds losses of its activations (activity_regularizer, add_loss): give the mixture "
            "an activity_regularizer; regularizers of weights are supported"
        )
    shape = getattr(traced.outputs, "shape", None)
    if shape is None or shape.rank is None or not all(shape[1:]):
        yield f"its output must be a tensor [A, …] with known axes, got {traced.outputs}"


def weight_of(variable, layer):
    """The `Weight` of a variable of a layer."""
    name = variable.path.split(f"{layer.name}/", 1)[-1].replace("/", "_")
    return Weight(
        name,
        tuple(variable.shape),
        variable.dtype,
        initializer_of(variable),
        variable.regularizer,
        variable.constraint,
    )
