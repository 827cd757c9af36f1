"""What all mixtures have in common: costs, how to find them, and what of Keras they do not support.

Axes: E experts, K experts per token, D model.
"""

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import compiles_for_xla, inner_layers
from tfmoe.layers.block import Block, Kept
from tfmoe.layers.expert_metrics import shortest_path

HINTS = {
    "k": "give it to the gate: gate=NoisyTopK(k=…)",
    "output_units": "an expert's output is as wide as its input: put keras.layers.Dense behind",
    "units": "an expert's output is as wide as its input: put keras.layers.Dense behind",
}


class MixtureLayer(Block):
    """Base class of layers with experts, the number of whose rows is known when a graph runs.

    Attributes:
        gate: a `tfmoe.gating.Gate`.
        experts: `tfmoe.layers.routed_experts.RoutedExperts`.
        evaluation_capacity_factor: limits what an expert takes outside of training; `None` for no
            limit.

    Raises:
        ValueError: for an argument that belongs elsewhere.
    """

    evaluation_capacity_factor = None

    def __init__(self, **kwargs):
        for name in HINTS:
            if name in kwargs:
                raise ValueError(f"{type(self).__name__} has no argument {name}: {HINTS[name]}")
        super().__init__(**kwargs)
        self.supports_jit = False  # Keras switches its automatic compilation off

    @property
    def num_sent(self):
        """How often a token leaves its device: once for each of its experts, or groups."""
        gate = self.gate
        return gate.num_selected if gate.groups is None else gate.primary.num_selected

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: its K experts, and the gates (the paper's count)."""
        selected = self.gate.num_selected * self.experts.ops_per_row(input_dim)
        return selected + self.gate_ops_per_timestep(input_dim)

    def gate_ops_per_timestep(self, input_dim):
        return self.gate.ops_per_timestep(input_dim)

    def kept_for_backward(self, input_dim, steps=0):
        """What the gate keeps; the rows that are sent to experts and come back, `2·K·D`, and those
        that come back from groups; the experts' hidden activations.
        """
        selected, size = self.gate.num_selected, tf.as_dtype(self.compute_dtype).size
        rows = 2 * selected + (0 if self.gate.groups is None else self.num_sent)
        always = self.gate.kept_for_backward(input_dim) + size * rows * input_dim
        hidden = size * selected * self.experts.hidden_per_row()
        return Kept(always, hidden, self.experts.recompute)

    def check_not_compiled(self):
        """Raises a ValueError inside a function that XLA compiles."""
        if compiles_for_xla():
            raise ValueError(
                f"{self.name} cannot be compiled by XLA, which must know the number of rows of "
                "every expert beforehand: leave jit_compile=True away"
            )

    def rematerialized_call(self, layer_call, *args, **kwargs):
        raise ValueError(
            f"{self.name} does not work in a keras.RematScope: create it outside of the scope, and "
            "give it recompute=True to compute hidden activations again in the backward pass"
        )

    def quantize(self, mode=None, *args, **kwargs):
        raise NotImplementedError(
            f"{self.name} cannot be quantized, got mode={mode!r}; `tfmoe export RUN OUT --half` "
            "stores weights in bfloat16"
        )

    def enable_lora(self, rank=None, *args, **kwargs):
        raise NotImplementedError(
            f"{self.name} has no LoRA adapters: to train a part of a model, set trainable=False on "
            "layers, or on layer.experts"
        )


def mixtures_of(model):
    """The mixtures of a model, wherever they are in it.

    Args:
        model: a Keras model or layer; itself, if it is a mixture.

    Returns:
        `{name: MixtureLayer}`, by the names of their metrics: the name of the layer, where several
        have the same after the names of the layers around it (`encoder_moe`), and where these are
        the same too before a number (`moe (2)`).
    """
    found = {}
    for layer in (model, *layers_within(model)):
        if isinstance(layer, MixtureLayer):
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


def automatic_name(base):
    """`base`, `base_1`, …: Keras' own rule would write "mo_e"."""
    uid = keras.backend.get_uid(base)
    return base if uid == 1 else f"{base}_{uid - 1}"
