"""What Keras offers for layers and mixtures do not support: an error names the alternative."""

import keras

from tfmoe.distribute.tensorflow_internals import compiles_for_xla

HINTS = {
    "k": "give it to the gate: gate=NoisyTopK(k=…)",
    "output_units": "an expert's output is as wide as its input: put keras.layers.Dense behind",
    "units": "an expert's output is as wide as its input: put keras.layers.Dense behind",
}


class MixtureLayer(keras.layers.Layer):
    """Base class of layers with experts, the number of whose rows is known when a graph runs.

    Raises:
        ValueError: for an argument that belongs elsewhere.
    """

    def __init__(self, **kwargs):
        for name in HINTS:
            if name in kwargs:
                raise ValueError(f"{type(self).__name__} has no argument {name}: {HINTS[name]}")
        super().__init__(**kwargs)
        self.supports_jit = False  # Keras switches its automatic compilation off

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


def automatic_name(base):
    """`base`, `base_1`, …: Keras' own rule would write "mo_e"."""
    uid = keras.backend.get_uid(base)
    return base if uid == 1 else f"{base}_{uid - 1}"
