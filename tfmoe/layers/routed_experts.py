"""The experts of a mixture: a stack of feed-forward networks, or copies of any Keras layer.

Axes: E experts, D model, H hidden, N outputs.
"""

from tfmoe.layers.experts import Experts
from tfmoe.layers.layer_experts import LayerExperts
from tfmoe.layers.routed import Routed

# Arguments of `Experts` that a Keras layer has itself, with their defaults.
OF_NETWORKS = {
    "hidden_units": None,
    "depth": 1,
    "activation": "relu",
    "use_bias": False,
    "kernel_initializer": "glorot_uniform",
    "gated": False,
    "expert_dropout": 0.0,
    "output_units": None,
    "bias_initializer": "zeros",
    "kernel_regularizer": None,
    "bias_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
}


class RoutedExperts(Routed, Experts):  # type: ignore[misc]  # another call
    """`Experts` with dispatch and combine: see `Routed`.

    Attributes:
        example_shape: `(D,)`, after `build`.
        output_shape: `(N,)`, after `build`.
    """

    def build(self, tokens_shape, *_):
        super().build(tokens_shape)
        self.example_shape = tuple(tokens_shape[-1:])
        self.output_shape = (self.output_width(tokens_shape[-1]),)

    def example_shape_of(self, inputs_shape, num_leading):
        """The shape of an example in the inputs of a mixture: the last axis."""
        return tuple(inputs_shape[-1:])

    def compute_output_shape(self, tokens_shape, *_):
        return super().compute_output_shape(tokens_shape)


class RoutedLayers(Routed, LayerExperts):
    """`LayerExperts` with dispatch and combine: see `Routed`. It is built with the shape of
    examples, and called with their axes flattened.
    """

    @property
    def example_shape(self):
        """The shape of an example."""
        return self.template.example_shape

    @property
    def output_shape(self):
        """The shape of the output for one example."""
        return self.template.output_shape

    def example_shape_of(self, inputs_shape, num_leading):
        """The shape of an example in the inputs of a mixture: the axes behind those of tokens."""
        return tuple(inputs_shape[num_leading:])

    def limited(self, assignments):
        """Sets a maximum for the rows of an expert: the layer needs a batch of a known size."""
        if assignments.is_static and assignments.max_rows is None:
            return assignments._replace(max_rows=assignments.num_tokens)
        return assignments


def make_experts(num_experts, layer, together, network):
    """Makes the experts for the arguments of a mixture.

    Args:
        num_experts: E.
        layer: the argument `experts`: a Keras layer, its serialized form, or `None`.
        together: see `Routed`.
        network: dictionary of further arguments of `Experts`.

    Returns:
        A `RoutedExperts`, or a `RoutedLayers` if there is a layer.

    Raises:
        ValueError: an argument is out of range, or has no meaning with a layer.
    """
    if layer is None:
        if network["hidden_units"] is None:
            raise ValueError(
                "hidden_units, the width of an expert's hidden layers, must be given: "
                "MoE(num_experts, hidden_units); or a Keras layer as the expert: experts=LAYER"
            )
        return RoutedExperts(num_experts, together=together, name="experts", **network)
    for name, default in OF_NETWORKS.items():
        if network[name] != default:
            raise ValueError(
                f"{name} must be {default!r} with experts=LAYER, which is the whole expert, got "
                f"{network[name]!r}"
            )
    options = {"recompute": network["recompute"], "dtype": network["dtype"]}
    return RoutedLayers(num_experts, layer, together=together, name="experts", **options)
