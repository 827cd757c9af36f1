"""The gates of KerasHub's mixtures, without weights: they read the output of KerasHub's router.

Axes: T tokens, E experts, K experts per token.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.gating.gate import Gate
from tfmoe.gating.routing import Routing
from tfmoe.ops.balancing import load_balance_loss


class RouterOutputs(NamedTuple):
    """The output of KerasHub's router for the tokens of a mixture.

    Attributes:
        rows: `[T, E]`, logits or scores.
        in_loss: `[T]` float, 1 for the tokens that the balancing loss counts and 0 for others;
            `None` if it counts all tokens.
    """

    rows: tf.Tensor
    in_loss: tf.Tensor | None = None

    def route(self, gate, training: bool = False) -> Routing:
        """Runs the gate of a mixture.

        Args:
            gate: a `RouterGate`.
            training: whether the step trains.
        """
        return gate.route(self.rows, training, in_loss=self.in_loss)

    def num_tokens(self) -> tf.Tensor:
        """T, int32 scalar."""
        return tf.shape(self.rows)[0]


class RouterGate(Gate):
    """Base class of gates that read the output of a router.

    Args:
        k: K.
    """

    kernel_names = ()

    def __init__(self, k: int, **kwargs):
        super().__init__(**kwargs)
        self.k = self.checked_k(k)

    @property
    def num_selected(self) -> int:
        return self.k

    def ops_per_timestep(self, input_dim):
        return input_dim * self.num_experts

    def kept_for_backward(self, input_dim):
        return tf.as_dtype(self.compute_dtype).size * (
            input_dim + self.KEPT_PER_LOGIT * self.num_experts
        )

    def get_config(self):
        return {**super().get_config(), "k": self.k}


class ScoreGate(RouterGate):
    """Selects the k largest scores of a token; they are the weights.

    The scores are those of gpt-oss and Gemma 4, whose routers set the scores of all other experts
    to 0. There is no balancing loss.
    """

    def route(self, inputs, training=False, groups=None, in_loss=None):
        weights, experts = tf.math.top_k(inputs, self.k)
        return self.routing_of_tokens(experts, weights)


class SoftmaxTopK(RouterGate):
    """Selects the k largest probabilities of a token, `softmax(logits)`.

    The balancing loss is KerasHub's: `loss_weight · (E/K) · Σ_i f_i p_i`, with the fraction f_i of
    the tokens that select expert i and its mean probability p_i, both over the tokens that the loss
    counts. So it is `loss_weight` at exact balance.

    Args:
        k: K.
        renormalize: whether the weights of a token are divided by their sum.
        loss_weight: weight of the balancing loss.
    """

    def __init__(self, k: int, renormalize: bool, loss_weight: float, **kwargs):
        super().__init__(k, **kwargs)
        self.renormalize = renormalize
        self.loss_weight = loss_weight

    def route(self, inputs, training=False, groups=None, in_loss=None):
        # In the dtype of the logits, as in KerasHub: half precision has ties among probabilities.
        probability = tf.nn.softmax(inputs)
        weights, experts = tf.math.top_k(probability, self.k)
        if self.renormalize:
            weights /= tf.reduce_sum(weights, axis=-1, keepdims=True)
        if not training:
            return self.routing_of_tokens(experts, weights)
        if in_loss is None:
            return self.routing_of_tokens(experts, weights, probability=probability)
        probability = tf.cast(probability, in_loss.dtype) * in_loss[:, None]
        routing = self.routing_of_tokens(experts, weights, probability=probability, in_loss=in_loss)
        counted = tf.reshape(tf.repeat(in_loss, self.k), [-1])
        load = tf.math.unsorted_segment_sum(counted, tf.reshape(experts, [-1]), self.num_experts)
        routing.sums["load_in_loss"] = tf.cast(load, routing.load.dtype)
        return routing

    def loss(self, sums):
        if not self.loss_weight:
            return None
        counted = {
            "probability": sums["probability"],
            "load": sums.get("load_in_loss", sums["load"]),
            "tokens": sums.get("in_loss", sums["tokens"]),
        }
        return self.loss_weight / self.k * load_balance_loss(counted)

    def get_config(self):
        config = {"renormalize": self.renormalize, "loss_weight": self.loss_weight}
        return {**super().get_config(), **config}
