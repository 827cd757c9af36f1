"""The noisy top-k gate (eq 3-5) with its smooth estimate of load (eq 8-10)."""

import warnings

import keras
import tensorflow as tf

from tfmoe.gating.base import Gate, Selection, small_random
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.routing import probability_in_top_k, top_k_gates


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
        seed: integer, for reproducible noise (not the same noise at both levels of a hierarchy).

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
        super().__init__(importance_weight=importance_weight, load_weight=load_weight, **kwargs)
        self.k = self.checked_k(k)
        self.noise = bool(noise)
        self.noise_floor = non_negative("noise_floor", noise_floor)
        self.seed = seed
        is_second_level = seed is not None and self.num_groups is not None
        draw_seed = seed + 1 if is_second_level else seed
        self.seed_generator = keras.random.SeedGenerator(draw_seed) if noise else None

    @property
    def kernel_names(self):
        return ("gate_kernel", "noise_kernel") if self.noise else ("gate_kernel",)

    @property
    def num_selected(self):
        return self.k

    def kernel_initializer(self):
        return super().kernel_initializer() if self.noise else small_random()

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

    def select(self, inputs, training=False, group_sizes=None):
        logits = self.logits("gate_kernel", inputs, group_sizes)
        if not (training and self.noise):
            return Selection(*top_k_gates(logits, self.k))
        stddev = tf.nn.softplus(self.logits("noise_kernel", inputs, group_sizes)) + self.noise_floor
        draw = keras.random.normal(tf.shape(logits), dtype=logits.dtype, seed=self.seed_generator)
        noisy = logits + draw * stddev
        probability = None
        if self.k < self.num_experts:
            probability = probability_in_top_k(logits, noisy, stddev, self.k)
        return Selection(*top_k_gates(noisy, self.k), probability)

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "noise": self.noise,
            "noise_floor": self.noise_floor,
            "seed": self.seed,
        }
