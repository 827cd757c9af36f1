"""The GShard gate (Lepikhin et al. 2021): two experts per token, the second one at random."""

import keras
import tensorflow as tf

from tfmoe.distribute import random_draws
from tfmoe.gating.limited_gate import LimitedGate
from tfmoe.gating.routing import draws_of_tokens
from tfmoe.ops.arguments import non_negative, probability
from tfmoe.ops.balancing import load_balance_loss, weighted_losses, z_loss


@keras.saving.register_keras_serializable("tfmoe")
class GShard(LimitedGate):
    """GShard gating: the two most probable experts, the second one at random (Lepikhin et al.
    2021).

    With `p = softmax(x·W_g)` and its two largest values p1 and p2, the weights are
    `g1 = p1/(p1 + p2)` and `g2 = p2/(p1 + p2)`. In training the second expert is kept with the
    probability `min(1, g2/τ)`. The weights do not change if an expert is dropped.

    An expert has a capacity. It accepts first choices in the order of the batch, then second
    choices (`capacity_priority = "choice"`).

    The balancing loss is `balance_weight · n · Σ_i f_i p_i`: f_i is the fraction of the tokens of
    the global batch whose first choice is expert i, counted before the capacity; p_i is its mean
    probability. At exact balance the value is `balance_weight`. At the inner level of a
    hierarchical mixture it is the mean over the groups.

    Paper: the batch is divided into groups of tokens, each with its own capacity. Here the capacity
    is that of the global batch.

    Paper: the capacity and the random choice are the same in evaluation. Here evaluation keeps the
    second expert and has no capacity by default, so that the output for a token is the same each
    time and does not depend on its batch.

    Args:
        second_threshold: τ, from 0 to 1; 0 keeps every second expert. Lepikhin et al.: 0.5.
        balance_weight: weight of the balancing loss, at least 0.
        capacity_factor: the capacity is `ceil(capacity_factor · T / n)` for a training batch of T
            tokens; `None` for no limit.

    Raises:
        ValueError: an argument is out of range, or there are fewer than 2 experts.

    Example:
        >>> moe = MoE(num_experts=16, hidden_units=256, gate=GShard(capacity_factor=1.25))
    """

    num_selected = 2
    capacity_priority = "choice"
    estimates_load = False

    def __init__(
        self,
        second_threshold: float = 0.5,
        balance_weight: float = 0.01,
        capacity_factor: float | None = 2.0,
        **kwargs,
    ):
        super().__init__(capacity_factor=capacity_factor, **kwargs)
        if self.num_experts == 1:
            raise ValueError(
                "num_experts must be at least 2 for GShard, which selects two experts (at the "
                "first level of a hierarchical mixture, two groups), got 1"
            )
        self.second_threshold = probability("second_threshold", second_threshold)
        self.balance_weight = non_negative("balance_weight", balance_weight)
        if self.second_threshold:
            self.add_seed_generator()

    def route(self, inputs, training=False, groups=None):
        inputs = self.features(inputs, training, groups)
        logits = self.logits("gate_kernel", inputs, groups)
        mass = tf.nn.softmax(logits)
        values, experts = tf.math.top_k(mass, 2)
        weights = values / tf.reduce_sum(values, axis=1, keepdims=True)
        first, second = experts[:, :1], experts[:, 1:]
        if training and self.second_threshold:
            draws = draws_of_tokens(self.draw(inputs), groups)
            is_kept = self.second_threshold * draws < weights[:, 1:]
            second = tf.where(is_kept, second, self.num_experts)
        return self.routing_of_tokens(
            tf.concat([first, second], axis=1),
            weights,
            groups,
            probability=mass,
            first_choices=tf.one_hot(first[:, 0], self.num_experts),
            **self.sums_of_logits(logits),
        )

    def draw(self, inputs):
        """Draws `[T, 1]` uniform numbers in `[0, 1)` for the T tokens."""
        shape = [tf.shape(inputs)[0], 1]
        return random_draws.uniform(shape, dtype=inputs.dtype, seed=self.seed_generator)

    def loss(self, sums):
        return weighted_losses(
            sums, (self.balance_weight, first_choice_loss), (self.z_loss_weight, z_loss)
        )

    def get_config(self):
        return {
            **super().get_config(),
            "second_threshold": self.second_threshold,
            "balance_weight": self.balance_weight,
        }


def first_choice_loss(sums):
    """`load_balance_loss` of the first choices."""
    return load_balance_loss(sums, load="first_choices")
