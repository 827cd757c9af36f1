"""The base class of gates that decide by learned logits, with the options that they share.

Axes: T tokens, E experts, D model, H hidden units of the gate, G groups.
"""

import math
import warnings

import keras
import tensorflow as tf

from tfmoe.distribute import random_draws
from tfmoe.gating.gate import Gate
from tfmoe.gating.routing import draws_of_tokens
from tfmoe.ops.arguments import fraction, non_negative, positive
from tfmoe.ops.tracking import track


class LearnedGate(Gate):
    """Base class of gates that decide by the logits `features(x)·W_g`.

    A subclass computes its logits from `features(inputs, training, groups)`, passes
    `**self.sums_of_logits(logits)` to `routing_of_tokens` or `routing`, and adds the pair
    `(self.z_loss_weight, z_loss)` to its losses, in `loss` and in `loss_as_level`. A subclass that
    draws random numbers calls `add_seed_generator` in its constructor.

    Args:
        z_loss_weight: weight of the router z-loss `(1/T) Σ_t (log Σ_i exp(logit_ti))²` over the T
            tokens of the global batch (Zoph et al. 2022), which keeps logits small. At the inner
            level of a hierarchical mixture it is the mean over the groups.
        jitter: ε; in training the gate reads its inputs times `U(1-ε, 1+ε)`, one draw for each
            feature of a token (Fedus et al. 2021). 0 draws nothing.
        gate_hidden_units: `None` for logits `x·W_g`, or the width H of a hidden layer without
            biases before them, `relu(x·W_h)·W_g` (Eigen et al. 2013).
        seed: integer, for reproducible random numbers of the gate. Copies of a gate in several
            layers, or at both levels of a hierarchical mixture, draw different numbers.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        z_loss_weight: float = 0.0,
        jitter: float = 0.0,
        gate_hidden_units: int | None = None,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.z_loss_weight = non_negative("z_loss_weight", z_loss_weight)
        self.jitter = fraction("jitter", jitter)
        if gate_hidden_units is not None:
            gate_hidden_units = positive("gate_hidden_units", gate_hidden_units)
        self.gate_hidden_units = gate_hidden_units
        self.seed = seed
        self.seed_generator = None
        if self.jitter:
            self.add_seed_generator()

    def add_seed_generator(self):
        """Creates `seed_generator`, if the gate has none."""
        if self.seed_generator is None:
            self.seed_generator = keras.random.SeedGenerator(self.seed)
            track(self, seed_generator=self.seed_generator)

    def build(self, input_shape):
        if self.gate_hidden_units is not None:
            shape = (*self.stack, input_shape[-1], self.gate_hidden_units)
            initializer = keras.initializers.RandomNormal(stddev=math.sqrt(2 / input_shape[-1]))
            self.add_own_weight("hidden_kernel", shape, initializer)
            input_shape = (None, self.gate_hidden_units)
        super().build(input_shape)

    def features(self, inputs: tf.Tensor, training: bool = False, groups=None) -> tf.Tensor:
        """What the gate's matrices multiply: the inputs, after jitter and the hidden layer.

        Args:
            inputs: `[T, D]`.
            training: whether to draw the jitter.
            groups: as for `route`.

        Returns:
            `[T, D]`, or `[T, H]` with a hidden layer.
        """
        if training and self.jitter:
            inputs *= 1 + self.jitter * draws_of_tokens(self.draw_jitter(inputs), groups)
        if self.gate_hidden_units is None:
            return inputs
        return tf.nn.relu(self.logits("hidden_kernel", inputs, groups))

    def draw_jitter(self, inputs):
        """Draws `[T, D]` numbers, uniform between -1 and 1."""
        shape = tf.shape(inputs)
        return random_draws.uniform(shape, -1, 1, dtype=inputs.dtype, seed=self.seed_generator)

    def sums_of_logits(self, logits: tf.Tensor) -> dict:
        """The values per token, `{name: [T]}`, whose sums the z-loss needs.

        Args:
            logits: `[T, E]`.
        """
        if not self.z_loss_weight:
            return {}
        return {"squared_logsumexp": tf.reduce_logsumexp(logits, axis=-1) ** 2}

    def ops_per_timestep(self, input_dim):
        if self.gate_hidden_units is None:
            return super().ops_per_timestep(input_dim)
        hidden = input_dim * self.gate_hidden_units
        return hidden + super().ops_per_timestep(self.gate_hidden_units)

    def kept_for_backward(self, input_dim):
        size = tf.as_dtype(self.compute_dtype).size
        jittered = 2 * size * input_dim if self.jitter else 0  # the draw and the product
        if self.gate_hidden_units is None:
            return jittered + super().kept_for_backward(input_dim)
        return jittered + size * input_dim + super().kept_for_backward(self.gate_hidden_units)

    def get_config(self):
        return {
            **super().get_config(),
            "z_loss_weight": self.z_loss_weight,
            "jitter": self.jitter,
            "gate_hidden_units": self.gate_hidden_units,
            "seed": self.seed,
        }


def warn_of_constant_weights(gate):
    """Warns if the weights of a gate have no gradient: those of one expert, divided by their sum.

    Args:
        gate: a gate with `k` and `renormalize`.
    """
    if gate.k == 1 and gate.renormalize and gate.num_experts != 1:
        warnings.warn(
            f"{type(gate).__name__} with k=1 and renormalize=True: the gate value is a constant, "
            "so the task does not train the gate. Use k=2 or more, renormalize=False, or "
            "tfmoe.gating.Switch.",
            stacklevel=3,
        )
