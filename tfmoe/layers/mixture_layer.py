"""The base classes of layers with experts: costs, features of Keras that are not supported, and how
to find the mixtures of a model.

Axes: E experts, K experts per token, D model.
"""

from collections.abc import Mapping

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.tensorflow_internals import (
    LossesOfReplicas,
    compiles_for_xla,
    inner_layers,
)
from tfmoe.layers.block import Block, Kept
from tfmoe.layers.expert_metrics import shortest_path
from tfmoe.ops import arguments
from tfmoe.ops.argument_names import check_names

OF_GATE = "give it to the gate: gate=NoisyTopK(k={0!r})"
HINTS = {
    "k": OF_GATE,
    "top_k": OF_GATE,
    "num_selected": OF_GATE,
    "num_experts_per_tok": OF_GATE,
    "dropout": "for hidden activations of the experts it is expert_dropout={0!r}",
    "output_units": "add keras.layers.Dense after it",
    "units": "the width of the output is output_units={0!r}",
}


class ExpertLayer(LossesOfReplicas, keras.layers.Layer):
    """Base class of layers with experts.

    Attributes:
        experts: `tfmoe.layers.routed_experts.RoutedExperts`.

    Raises:
        ValueError: an argument is unknown.
    """

    hints: Mapping[str, str] = HINTS  # for arguments that people try, see `check_names`

    def __init__(self, **kwargs):
        check_names(type(self), kwargs, self.hints)
        super().__init__(**kwargs)

    def dense_inputs(self, inputs) -> tf.Tensor:
        """The inputs of a call as a dense tensor `[..., D]` in the compute dtype. D is known even
        if the caller does not know it, such as a function of `tf.TensorSpec([None, None])`.

        Raises:
            ValueError: the inputs are sparse, ragged, strings or complex numbers.
        """
        name = f"inputs of {self.name}"
        inputs = arguments.float_tensor(name, inputs, self.compute_dtype)
        if self.built and inputs.shape[-1] is None:
            spec = tf.nest.flatten(self.input_spec)[0]
            inputs = tf.ensure_shape(inputs, [*inputs.shape[:-1], spec.axes[-1]])
        return inputs

    def row_widths(self, input_dim: int) -> tuple[int, int]:
        """The widths of an expert's input and output."""
        return input_dim, self.experts.output_width(input_dim)

    def bytes_sent(self, input_dim: int, tokens: int, devices: int) -> int:
        """Bytes that a device sends in a training step to other devices for the experts: rows and
        results in the forward pass, their gradients in the backward pass.

        Args:
            input_dim: D.
            tokens: positions of a batch on each device.
            devices: R.
        """
        size = tf.as_dtype(self.compute_dtype).size
        num_sent = self.num_sent
        if num_sent != self.num_selected and devices > self.gate.groups:
            num_sent = self.num_selected  # groups are divided among devices
        numbers = 2 * num_sent * tokens * sum(self.row_widths(input_dim))
        return -(-numbers * size * (devices - 1) // devices)

    def rematerialized_call(self, layer_call, *args, **kwargs):
        raise ValueError(
            f"{self.name} does not support keras.RematScope: create it outside of the scope, with "
            "recompute=True to compute hidden activations again in the backward pass"
        )

    def quantize(self, mode=None, *args, **kwargs):
        raise NotImplementedError(
            f"{self.name} cannot be quantized, got mode={mode!r}: model.quantize(…) quantizes the "
            "layers around it; `tfmoe export RUN OUT --half` stores weights in bfloat16"
        )

    def enable_lora(self, rank=None, *args, **kwargs):
        raise NotImplementedError(
            f"{self.name} does not support LoRA: to train a part of a model, set trainable=False "
            "on layers, or on layer.experts"
        )


class MixtureLayer(ExpertLayer, Block):
    """Base class of layers with experts and a gate.

    Attributes:
        gate: a `tfmoe.gating.Gate`.
        shared: `tfmoe.layers.shared_experts.SharedExperts`, or `None`.
        evaluation_capacity_factor: limits the rows of an expert outside of training; `None` for no
            limit.
    """

    shared = None
    evaluation_capacity_factor: float | None = None

    @property
    def num_selected(self) -> int:
        """The number of experts per token, as a maximum or a mean."""
        return self.gate.num_selected

    @property
    def num_sent(self) -> int:
        """How many times a token is sent to a device: once for each of its experts or groups."""
        gate = self.gate
        return gate.num_selected if gate.groups is None else gate.primary.num_selected

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: K experts, shared experts, gates (the paper's count)."""
        selected = self.gate.num_selected * self.experts.ops_per_row(input_dim)
        shared = 0 if self.shared is None else self.shared.ops_per_row(input_dim)
        return selected + shared + self.gate_ops_per_timestep(input_dim)

    def gate_ops_per_timestep(self, input_dim):
        return self.gate.ops_per_timestep(input_dim)

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position: by the gate; the rows sent to experts and their results,
        `K·(D + N)`; the results of groups; the hidden activations of experts; one byte for each of
        them with dropout; and, of shared experts, the same and the factors of their gate.
        """
        selected, size = self.gate.num_selected, tf.as_dtype(self.compute_dtype).size
        width = self.experts.output_width(input_dim)
        rows = selected * (input_dim + width)
        rows += 0 if self.gate.groups is None else self.num_sent * width
        always = self.gate.kept_for_backward(input_dim) + size * rows
        always += selected * self.experts.dropout_per_row()
        hidden = size * selected * self.experts.hidden_per_row()
        if self.shared is not None:
            always += size * self.shared.kept_per_row(input_dim) + self.shared.dropout_per_row()
            hidden += size * self.shared.hidden_per_row()
        return Kept(always, hidden, self.experts.recompute)


def check_not_compiled(layer):
    """Raises a `ValueError` in one of several replicas, inside a function that XLA compiles.

    Args:
        layer: the layer, for the error.
    """
    if collectives.num_replicas() > 1 and compiles_for_xla():
        strategy = type(tf.distribute.get_strategy()).__name__
        raise ValueError(
            f"{layer.name} cannot be compiled by XLA in the {collectives.num_replicas()} replicas "
            f"of a {strategy}: remove jit_compile=True"
        )


def mixtures_of(model):
    """Finds all mixtures with a gate in a model.

    Args:
        model: a Keras model or layer; a mixture is included itself.

    Returns:
        `{name: MixtureLayer}`, with the names of `expert_layers_of`.
    """
    layers = expert_layers_of(model).items()
    return {name: layer for name, layer in layers if isinstance(layer, MixtureLayer)}


def expert_layers_of(model):
    """Finds all layers with experts in a model.

    Args:
        model: a Keras model or layer; a layer with experts is included itself.

    Returns:
        `{name: ExpertLayer}`, named like their metrics: by the layer's name; if several have the
        same name, with the names of the layers around them in front (`encoder_moe`); if these are
        the same too, with a number at the end (`moe (2)`).
    """
    found = {}
    for layer in (model, *layers_within(model)):
        if isinstance(layer, ExpertLayer):
            name, number = "_".join(shortest_path(model, layer)), 2
            unique = name
            while unique in found:
                unique, number = f"{name} ({number})", number + 1
            found[unique] = layer
    return found


def layers_within(layer):
    """Lists all layers inside a layer once, depth first."""
    layers = {}

    def visit(parent):
        for child in inner_layers(parent):
            if id(child) not in layers:
                layers[id(child)] = child
                visit(child)

    visit(layer)
    return list(layers.values())


def automatic_name(base):
    """`base`, `base_1`, …: Keras' rule would convert "MoE" to "mo_e"."""
    uid = keras.backend.get_uid(base)
    return base if uid == 1 else f"{base}_{uid - 1}"
