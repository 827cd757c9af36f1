"""The noisy top-k gate (eq 3-5) with its smooth estimate of load (eq 8-10)."""

import warnings

import keras
import tensorflow as tf

from tfmoe.gating.gate import Gate
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.balancing import importance_loss, load_loss, weighted_losses
from tfmoe.ops.routing import probability_in_top_k, top_k_gates
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class NoisyTopK(Gate):
    """Noisy top-k gating: the paper's gate for language models (eq 3-5).

    `H_i = (x·W_g)_i + N(0, 1)·(softplus((x·W_noise)_i) + noise_floor)`,
    `G = softmax(KeepTopK(H, k))`.
    Both matrices start at zero: all experts are equally likely at first (App. A). Noise is drawn in
    training only.

    The load is the estimate of eq 8-10 while noise is drawn and k < n; else it is the plain count
    of examples,
    which has no gradient: then only `importance_weight` balances the gate.

    Args:
        k: experts per token, 1 <= k <= num_experts. With k = 1 the gate value is always 1, so that
            the task does not train the gate, only the load loss does (a warning says so; `Switch`
            is the gate for k = 1).
        importance_weight: w_importance of eq 7 (the paper's language models: 0.1, translation:
            0.01).
        load_weight: w_load of eq 11 (likewise).
        noise: `False` for a deterministic gate, without W_noise; W_g then starts at small random
            values, since equal logits would send every token to the same experts.
        noise_floor: a constant added to the learned standard deviation of the noise.
        seed: integer, for reproducible noise. Copies of one gate in several layers, or at both
            levels of a hierarchy, draw different noise.

    Raises:
        ValueError: if an argument is out of its range, or k > num_experts.
    """

    def __init__(
        self,
        k=4,
        importance_weight=0.0,
        load_weight=0.0,
        noise=True,
        noise_floor=0.0,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)
        self.importance_weight = non_negative("importance_weight", importance_weight)
        self.load_weight = non_negative("load_weight", load_weight)
        self.noise = bool(noise)
        self.noise_floor = non_negative("noise_floor", noise_floor)
        self.seed = seed
        self.seed_generator = keras.random.SeedGenerator(seed) if noise else None
        track(self, seed_generator=self.seed_generator)

    @property
    def kernel_names(self):
        return ("gate_kernel", "noise_kernel") if self.noise else ("gate_kernel",)

    @property
    def num_selected(self):
        return self.k

    def kernel_initializer(self):
        return keras.initializers.Zeros() if self.noise else super().kernel_initializer()

    def build(self, input_shape):
        if self.k == 1 and self.num_experts != 1:
            warnings.warn(
                "NoisyTopK with k=1: the softmax over one kept logit is always 1, so neither the "
                "task nor the importance loss trains the gate, only the load loss does. Use k=2 or "
                "more, or tfmoe.gating.Switch, whose gate value is the probability before the "
                "selection.",
                stacklevel=2,
            )
        super().build(input_shape)

    def route(self, inputs, training=False, groups=None):
        logits = self.logits("gate_kernel", inputs, groups)
        if not (training and self.noise):
            return self.routing_of_tokens(*top_k_gates(logits, self.k), groups)
        stddev = self._stddev(inputs, groups)
        noisy = logits + self.draw(inputs) * stddev
        estimate = {}
        if self.k < self.num_experts:
            estimate["smooth_load"] = probability_in_top_k(logits, noisy, stddev, self.k)
        return self.routing_of_tokens(*top_k_gates(noisy, self.k), groups, **estimate)

    def draw(self, inputs):
        """`[T, E]` standard normal noise for the `[T, D]` tokens."""
        shape = [tf.shape(inputs)[0], self.num_experts]
        return keras.random.normal(shape, dtype=inputs.dtype, seed=self.seed_generator)

    def noise_deviation(self, inputs, groups=None):
        if not self.noise:
            return {}
        return {"noise": tf.reduce_mean(self._stddev(inputs, groups))}

    def _stddev(self, inputs, groups):
        return tf.nn.softplus(self.logits("noise_kernel", inputs, groups)) + self.noise_floor

    def loss(self, sums):
        return weighted_losses(
            sums, (self.importance_weight, importance_loss), (self.load_weight, load_loss)
        )

    def loss_as_level(self, sums):
        return None

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "importance_weight": self.importance_weight,
            "load_weight": self.load_weight,
            "noise": self.noise,
            "noise_floor": self.noise_floor,
            "seed": self.seed,
        }
