"""A Keras model that trains a mixture by its likelihood (Jacobs et al. 1991).

Axes: B rows, E experts, D inputs, N outputs.
"""

from collections.abc import Sequence
from typing import Literal

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.classic.likelihood import MixtureLoss
from tfmoe.layers.global_sums import apply_sums
from tfmoe.ops.arguments import last_dimension


@keras.saving.register_keras_serializable("tfmoe")
class LocalExperts(keras.Model):
    """Adaptive mixture of local experts: `P(y|x) = Σ_i p_i(x) P_i(y|x)`.

    The loss is the negative log likelihood of the targets (`mixture_loss`), so experts compete for
    rows. The loss of the 2017 paper's mixture, the error of `Σ_i p_i o_i`, makes them co-operate
    instead. All experts are computed for every row.

    Args:
        experts: a list of E Keras layers or models; each maps the inputs to `[B, N]`: the mean of a
            Gaussian, or the logits of N classes. The paper's experts are linear: `Dense(N)`.
        likelihood: `"gaussian"` for regression, `"categorical"` for classification.
        variance: σ² of the Gaussian likelihood. A small one makes experts specialise more.
        gate: a dense `tfmoe.gating.Gate`, its name or a dictionary, as for `MoE`: `Softmax()`, or
            `Hierarchical(groups, Softmax())` for the mixture of Jordan and Jacobs (1994).

    Call arguments:
        inputs: `[B, D]` float; or a pair of the inputs of the experts, and those of the gate,
            `[B, D_gate]`. A constant 1 is added to the gate's inputs.
        training: passed to the experts.

    Returns:
        A dictionary, also of `predict`: `gates` `[B, E]`, the probabilities p; `experts`
        `[B, E, N]`, the outputs of all experts; and `mean` `[B, N]`, the prediction: `Σ_i p_i o_i`
        or `Σ_i p_i softmax(o_i)`. The metrics of `compile` are computed from the mean.

    Raises:
        ValueError: an argument is out of range, the gate does not select all experts, or the
            experts' outputs differ in shape; in `fit`, if `compile` got a loss.

    Source: Jacobs, Jordan, Nowlan and Hinton, "Adaptive mixtures of local experts" (1991).

    Example:
        >>> model = LocalExperts([keras.layers.Dense(2) for _ in range(3)])
        >>> model.compile("adam")
        >>> model(tf.ones([5, 4]))["mean"].shape
        TensorShape([5, 2])
    """

    def __init__(
        self,
        experts: Sequence[keras.layers.Layer],
        likelihood: Literal["gaussian", "categorical"] = "gaussian",
        variance: float = 1.0,
        gate: gating.Gate | str | dict = "softmax",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.experts = list_of_layers(experts)
        self.likelihood_loss = MixtureLoss(likelihood, variance, dtype=self.variable_dtype)
        gate = gating.get(gate).for_experts(
            len(self.experts), name="gate", dtype=self.variable_dtype
        )
        if gate.num_selected != len(self.experts):
            raise ValueError(
                f"gate must select all experts, as Softmax() or Hierarchical(groups, Softmax()) "
                f"does, got {gate!r}, which selects {gate.num_selected} of {len(self.experts)}"
            )
        self.gate = gate

    def build(self, input_shape):
        shape, gate_shape = both(input_shape, isinstance(input_shape[0], (tuple, list)))
        for expert in self.experts:
            if not expert.built:
                expert.build(shape)
        shapes = {tuple(expert.compute_output_shape(shape)) for expert in self.experts}
        if len(shapes) > 1 or len(min(shapes)) != 2:
            raise ValueError(f"experts must return one shape [rows, N], got {sorted(shapes)}")
        gate_dim = last_dimension(f"gate inputs of {self.name}", gate_shape, rank=2)
        self.gate.build((None, gate_dim + 1))

    def call(self, inputs, training=False):
        inputs, gate_inputs = both(inputs, isinstance(inputs, (tuple, list)))
        gates = self.gate_probabilities(gate_inputs, training)
        outputs = [expert(inputs, training=training) for expert in self.experts]
        outputs = tf.cast(tf.stack(outputs, axis=1), gates.dtype)
        is_gaussian = self.likelihood_loss.likelihood == "gaussian"
        means = outputs if is_gaussian else tf.nn.softmax(outputs)
        return {
            "mean": tf.einsum("be,ben->bn", gates, means),
            "gates": gates,
            "experts": outputs,
        }

    def gate_probabilities(self, gate_inputs, training=False):
        """The probabilities p: `[B, D_gate]` to `[B, E]`."""
        rows = tf.cast(gate_inputs, self.variable_dtype)
        rows = tf.pad(rows, [[0, 0], [0, 1]], constant_values=1)
        routing = self.gate(rows, training=training)
        apply_sums(self, self.gate, routing.sums, training)
        assignments = routing.assignments
        indices = tf.stack([assignments.tokens, assignments.experts()], axis=1)
        return tf.scatter_nd(indices, assignments.weights, [tf.shape(rows)[0], len(self.experts)])

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if self.loss is not None:
            raise ValueError(
                f"compile LocalExperts without a loss, got loss={self.loss!r}: it trains on the "
                "likelihood that its constructor names"
            )
        loss = self.likelihood_loss(y, y_pred, sample_weight)
        if self.losses:  # of the gate, and of regularizers
            loss += tf.cast(super().compute_loss(training=training), loss.dtype)
        return loss

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        return super().compute_metrics(x, y, y_pred["mean"], sample_weight)

    def get_config(self):
        return {
            **super().get_config(),
            "experts": [keras.saving.serialize_keras_object(expert) for expert in self.experts],
            "likelihood": self.likelihood_loss.likelihood,
            "variance": self.likelihood_loss.variance,
            "gate": keras.saving.serialize_keras_object(self.gate),
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        experts = [keras.saving.deserialize_keras_object(each) for each in config["experts"]]
        return cls(**{**config, "experts": experts})


def both(inputs, is_pair):
    """The inputs of the experts and those of the gate: one value stands for both."""
    inputs, gate_inputs = inputs if is_pair else (inputs, inputs)
    return inputs, gate_inputs


def list_of_layers(experts):
    """Checks the `experts` of `LocalExperts`."""
    is_list = isinstance(experts, (list, tuple)) and len(experts) > 0
    if not is_list or not all(isinstance(expert, keras.layers.Layer) for expert in experts):
        raise ValueError(f"experts must be a list of Keras layers, got {experts!r}")
    if len({id(expert) for expert in experts}) < len(experts):
        raise ValueError(
            "experts must be different layers: write [Dense(2) for _ in range(4)], not "
            f"[Dense(2)] * 4; got {experts!r}"
        )
    return list(experts)
