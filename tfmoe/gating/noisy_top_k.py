"""The noisy top-k gate (eq 3-5) with its smooth estimate of the load (eq 8-10)."""

import warnings

import keras
import tensorflow as tf

from tfmoe.distribute import random_draws
from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.gating.old_settings import without_load_loss
from tfmoe.gating.routing import draws_of_tokens
from tfmoe.ops.arguments import non_negative
from tfmoe.ops.balancing import importance_loss, load_loss, weighted_losses, z_loss
from tfmoe.ops.routing import probability_in_top_k, top_k_gates


@keras.saving.register_keras_serializable("tfmoe")
class NoisyTopK(LearnedGate):
    """Noisy top-k gating: each token goes to the k experts with the highest noisy logits (eq 3-5).

    `H_i = (x·W_g)_i + N(0, 1)·(softplus((x·W_noise)_i) + noise_floor)`,
    `G = softmax(KeepTopK(H, k))`.

    This is the gate of the paper's models. Both matrices start at zero, so that all experts are
    equally likely at first (App. A). Noise is drawn in training only.

    Without balancing losses a few experts usually get most of the tokens, and only they improve.
    Two losses prevent this: `importance_weight` and `load_weight`, with the weights of the paper's
    language models by default. If the metric `max_over_mean_load` stays high, increase them; if the
    task's loss suffers, decrease them. With 0 and 0 nothing balances the gate.

    The load is the differentiable estimate of eq 8-10, which needs noise. Without noise it is the
    token count, which has no gradient: only `importance_weight` balances the gate. If k equals
    num_experts, every expert receives every token, and the load loss is 0.

    Args:
        k: number of experts per token, 1 <= k <= num_experts. The paper uses 4, or 2 at each level
            of a hierarchical mixture. With k = 1 the gate value is always 1, so the task does not
            train the gate, only the load loss does, and a warning is issued; use `Switch` for
            k = 1.
        importance_weight: weight of the importance loss `CV(Importance(X))²` (w_importance of
            eq 7). The importance of an expert is the sum of its gate values over the batch; the
            loss is 0 if all experts have the same importance. 0 switches the loss off. The paper
            uses 0.1 for language models, which is the default, and 0.01 for translation.
        load_weight: weight of the load loss `CV(Load(X))²` (w_load of eq 11). The load of an expert
            is the number of tokens that it receives: experts with the same importance can still
            receive few large or many small gate values. `None` for 0.1 with noise and 0 without:
            the paper uses the same value as for `importance_weight`. Must be 0 or `None` without
            noise.
        noise: `False` for a deterministic gate without W_noise and without a load loss. W_g then
            starts at small random values, because equal logits would send every token to the same
            experts.
        noise_floor: a constant that is added to the learned standard deviation of the noise.
        seed: integer, for reproducible noise. Copies of a gate in several layers, or at both levels
            of a hierarchical mixture, draw different noise.

    Raises:
        ValueError: an argument is out of range, k > num_experts, or `load_weight` > 0 without
            noise. A configuration with such a `load_weight` loads, with 0 instead and a warning.

    Example:
        >>> moe = MoE(num_experts=32, hidden_units=1024, gate=NoisyTopK(k=4))
        >>> translation = NoisyTopK(k=4, importance_weight=0.01, load_weight=0.01)
        >>> NoisyTopK(k=4, noise=False).load_weight
        0.0
    """

    def __init__(
        self,
        k: int = 4,
        importance_weight: float = 0.1,
        load_weight: float | None = None,
        noise: bool = True,
        noise_floor: float = 0.0,
        seed: int | None = None,
        **kwargs,
    ):
        super().__init__(seed=seed, **kwargs)
        self.k = self.checked_k(k)
        self.importance_weight = non_negative("importance_weight", importance_weight)
        self.noise = bool(noise)
        load_weight = default_load_weight(self.noise) if load_weight is None else load_weight
        self.load_weight = non_negative("load_weight", load_weight)
        if self.load_weight and not self.noise:
            raise ValueError(
                f"load_weight must be 0 with noise=False, got {load_weight}: without noise the "
                "load is a count, and its loss has no gradient. Use importance_weight, noise=True, "
                "or TopK(k=…, balance_weight=…)"
            )
        self.noise_floor = non_negative("noise_floor", noise_floor)
        if self.noise:
            self.add_seed_generator()

    @property
    def estimates_load(self) -> bool:  # type: ignore[override]
        return self.noise

    @property
    def kernel_names(self) -> tuple:  # type: ignore[override]
        return ("gate_kernel", "noise_kernel") if self.noise else ("gate_kernel",)

    @property
    def num_selected(self) -> int:
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
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        sums = self.sums_of_logits(logits)
        if not (training and self.noise):
            return self.routing_of_tokens(*top_k_gates(logits, self.k), groups, **sums)
        stddev = self._stddev(inputs, groups)
        noisy = logits + draws_of_tokens(self.draw(inputs), groups) * stddev
        highest, experts = tf.math.top_k(noisy, min(self.k + 1, self.num_experts))
        if self.k < self.num_experts:
            sums["smooth_load"] = probability_in_top_k(logits, noisy, stddev, self.k, highest)
        gates = tf.nn.softmax(highest[:, : self.k])
        return self.routing_of_tokens(experts[:, : self.k], gates, groups, **sums)

    def draw(self, inputs):
        """Draws `[T, E]` standard normal noise for the `[T, D]` tokens."""
        shape = [tf.shape(inputs)[0], self.num_experts]
        return random_draws.normal(shape, dtype=inputs.dtype, seed=self.seed_generator)

    def noise_deviation(self, inputs, groups=None):
        if not self.noise:
            return {}
        inputs = self.features(inputs, groups=groups)
        return {"noise": tf.reduce_mean(self._stddev(inputs, groups))}

    def _stddev(self, inputs, groups):
        return tf.nn.softplus(self.logits("noise_kernel", inputs, groups)) + self.noise_floor

    def loss(self, sums):
        return weighted_losses(
            sums,
            (self.importance_weight, importance_loss),
            (self.load_weight, load_loss),
            (self.z_loss_weight, z_loss),
        )

    def loss_as_level(self, sums):
        return weighted_losses(sums, (self.z_loss_weight, z_loss))

    @classmethod
    def current_settings(cls, settings):
        noise, weight = settings.get("noise", True), settings.get("load_weight")
        if weight is None:
            return {**settings, "load_weight": default_load_weight(noise)}
        return settings if noise else without_load_loss(settings)

    def get_config(self):
        return {
            **super().get_config(),
            "k": self.k,
            "importance_weight": self.importance_weight,
            "load_weight": self.load_weight,
            "noise": self.noise,
            "noise_floor": self.noise_floor,
        }


def default_load_weight(noise):
    """The weight of the load loss for `load_weight=None`: the paper's, if the loss has a
    gradient.
    """
    return 0.1 if noise else 0.0
