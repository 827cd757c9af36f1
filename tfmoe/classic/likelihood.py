"""The likelihood of a mixture of experts as a loss (Jacobs et al. 1991).

Axes: B rows, E experts, N outputs.
"""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe.ops.arguments import one_of, positive_number

LOWEST_PROBABILITY = 1e-37  # has a logarithm in float32


def gaussian_log_likelihoods(
    outputs: tf.Tensor, targets: tf.Tensor, variance: float = 1.0
) -> tf.Tensor:
    """`−‖d − o_i‖² / 2σ²` for each expert i: the log of a Gaussian density, without its constant.

    Args:
        outputs: `[B, E, N]` float, o.
        targets: `[B, N]` float, d; `[B]` if N is 1.
        variance: σ².

    Returns:
        `[B, E]`, the dtype of `outputs`.

    Raises:
        ValueError: a shape is wrong, or the variance is not above 0.
    """
    variance = positive_number("variance", variance)
    outputs = checked_outputs(outputs)
    targets = tf.cast(targets, outputs.dtype)
    targets = targets[:, None] if targets.shape.rank == 1 else targets
    if targets.shape.rank != 2 or targets.shape[1] != outputs.shape[2]:
        raise ValueError(
            f"targets must have the shape [rows, {outputs.shape[2]}], got {targets.shape}"
        )
    return tf.reduce_sum((targets[:, None] - outputs) ** 2, axis=-1) / (-2 * variance)


def categorical_log_likelihoods(outputs: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """`ln softmax(o_i)_y` for each expert i: the log of the probability of the label.

    Args:
        outputs: `[B, E, N]` float, the logits o of N classes.
        labels: `[B]` or `[B, 1]`, integers from 0 to N-1, of any dtype.

    Returns:
        `[B, E]`, the dtype of `outputs`.

    Raises:
        ValueError: a shape is wrong.
    """
    outputs = checked_outputs(outputs)
    labels = tf.cast(labels, tf.int32)
    if labels.shape.rank == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape.rank != 1:
        raise ValueError(
            f"labels must be integers with the shape [rows], got the shape {labels.shape}; for "
            "one-hot labels pass their argmax"
        )
    labels = tf.broadcast_to(labels[:, None], tf.shape(outputs)[:2])
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels, outputs)


def checked_outputs(outputs):
    """Returns the outputs of experts as a tensor `[B, E, N]`, or raises a `ValueError`."""
    outputs = tf.convert_to_tensor(outputs)
    if outputs.shape.rank != 3:
        raise ValueError(f"outputs must have the shape [rows, experts, N], got {outputs.shape}")
    return outputs


def mixture_loss(gate_logits: tf.Tensor, log_likelihoods: tf.Tensor) -> tf.Tensor:
    """The negative log likelihood of a mixture, `−ln Σ_i p_i exp(l_i)`.

    Its gradients are `p_i − h_i` for the logit of gate i and `−h_i ∂l_i/∂o_i` for the output of
    expert i, where `h_i` are the `posteriors`: an expert learns a row in proportion to its share in
    the row's likelihood. With Gaussian `l_i` the second is `−h_i (d − o_i) / σ²`.

    Args:
        gate_logits: `[B, E]` float, `p = softmax(gate_logits)`; the logarithms of probabilities are
            such logits too.
        log_likelihoods: `[B, E]`, l.

    Returns:
        `[B]`, in nats.

    Source: Jacobs, Jordan, Nowlan and Hinton, "Adaptive mixtures of local experts" (1991).
    """
    return -tf.reduce_logsumexp(tf.nn.log_softmax(gate_logits) + log_likelihoods, axis=-1)


def posteriors(gate_logits: tf.Tensor, log_likelihoods: tf.Tensor) -> tf.Tensor:
    """`h_i = p_i exp(l_i) / Σ_j p_j exp(l_j)`: the probability that expert i generated the target.

    Args:
        gate_logits: `[B, E]`, as for `mixture_loss`.
        log_likelihoods: `[B, E]`.

    Returns:
        `[B, E]`.
    """
    return tf.nn.softmax(gate_logits + log_likelihoods)


@keras.saving.register_keras_serializable("tfmoe")
class MixtureLoss(keras.losses.Loss):
    """`mixture_loss` as a Keras loss, of what `LocalExperts` returns.

    Args:
        likelihood: `"gaussian"` for regression, `"categorical"` for classification.
        variance: σ² of the Gaussian likelihood.
        **kwargs: arguments of every Keras loss: `reduction`, `name`, `dtype`.

    Call arguments:
        y_true: targets `[B, N]`, or labels `[B]`.
        y_pred: a dictionary with `gates` `[B, E]`, the probabilities p, and `experts` `[B, E, N]`,
            the outputs o.
        sample_weight: `[B]` weights of rows, or `None`.

    Example:
        >>> outputs = {"gates": tf.constant([[0.5, 0.5]]), "experts": tf.zeros([1, 2, 4])}
        >>> loss = MixtureLoss("categorical")(tf.constant([3]), outputs)  # ln 4
        >>> round(float(loss), 3)
        1.386
    """

    def __init__(
        self,
        likelihood: Literal["gaussian", "categorical"] = "gaussian",
        variance: float = 1.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.likelihood = one_of("likelihood", likelihood, ("gaussian", "categorical"))
        self.variance = positive_number("variance", variance)

    def call(self, y_true, y_pred):
        gates, outputs = y_pred["gates"], y_pred["experts"]
        if self.likelihood == "gaussian":
            likelihoods = gaussian_log_likelihoods(outputs, y_true, self.variance)
        else:
            likelihoods = categorical_log_likelihoods(outputs, y_true)
        return mixture_loss(tf.math.log(tf.maximum(gates, LOWEST_PROBABILITY)), likelihoods)

    def get_config(self):
        return {
            **super().get_config(),
            "likelihood": self.likelihood,
            "variance": self.variance,
        }
