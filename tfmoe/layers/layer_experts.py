"""Experts that are copies of any Keras layer.

Axes: E experts, A rows (assignments), D values of an example, N values of its output.
"""

import math

import keras
import tensorflow as tf

from tfmoe.layers.expert_template import ExpertTemplate
from tfmoe.layers.initializers import per_expert
from tfmoe.layers.stack_penalties import penalties
from tfmoe.ops import arguments
from tfmoe.ops.expert_matmul import zero_outputs
from tfmoe.ops.expert_runners import Inputs, Outputs, unrolled
from tfmoe.ops.tracking import track


class LayerExperts(keras.layers.Layer):
    """E copies of a Keras layer, with separate weights; each row is computed by one of them.

    For each weight of the layer there is one stack `[E, …]`, which a `MixedStrategy` can shard.
    Experts are computed one after the other, with the operations of the layer: many experts make a
    large graph.

    An example can have any shape: a vector `[D]`, an image `[height, width, channels]`, a sequence
    `[steps, D]`. Rows are examples with their axes flattened into one.

    Args:
        num_experts: E.
        layer: a Keras layer that is not built, or its serialized form: see `ExpertTemplate`.
        recompute: whether the backward pass computes an expert again, instead of keeping its
            activations (App. D).

    Attributes:
        stacks: list of variables `[E, …]`, one for each weight of the layer.
    """

    def __init__(self, num_experts, layer, recompute=False, **kwargs):
        # Without autocast the layer reads its weights in their own dtype, and casts them itself.
        super().__init__(autocast=False, **kwargs)
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.template = ExpertTemplate(layer)
        self.recompute = arguments.boolean("recompute", recompute)
        self.stacks: list = []

    def build(self, examples_shape):
        self.template.build(examples_shape)
        for weight in self.template.weights:
            stack = self.add_weight(
                name=weight.name,
                shape=(self.num_experts, *weight.shape),
                dtype=weight.dtype,
                initializer=per_expert(weight.initializer),
                **penalties(weight.regularizer, weight.constraint),
            )
            self.stacks.append(stack)
        track(self, stacks=self.stacks)

    def num_local(self):
        """The number of experts on this device."""
        return tf.convert_to_tensor(self.stacks[0]).shape[0]

    def compute(self, rows, counts, rows_per_expert=None, training=False, is_static=False):
        """Computes each row with its expert.

        Args:
            rows: `[A, D]`, sorted by expert.
            counts: `[E]` int32, rows of each expert.
            rows_per_expert: as for `Experts.compute`; given if `is_static`.
            training: passed to the layer.
            is_static: as for `Experts.compute`.

        Returns:
            `[A, N]`; 0 in rows that belong to no expert.
        """
        stacks = [tf.convert_to_tensor(stack) for stack in self.stacks]
        width = math.prod(self.template.output_shape)
        if stacks[0].shape[0] == 0:
            return zero_outputs(rows, stacks, width)

        def compute_layer(rows, weights):
            examples = tf.reshape(rows, [-1, *self.template.example_shape])
            outputs = self.template(examples, weights, training)
            return tf.cast(tf.reshape(outputs, [-1, width]), rows.dtype)

        def compute_expert(rows, *weights):
            if is_static:
                return compute_layer(rows, weights)
            return tf.cond(  # some layers fail on a batch without examples
                tf.shape(rows)[0] > 0,
                lambda: compute_layer(rows, weights),
                lambda: zero_outputs(rows, weights, width),
            )

        if self.recompute:
            compute_expert = tf.recompute_grad(compute_expert)

        if is_static:
            parts = tf.split(rows, stacks[0].shape[0])
            weights = zip(*(tf.unstack(stack) for stack in stacks), strict=True)
            outputs = [compute_expert(part, *of) for part, of in zip(parts, weights, strict=True)]
            return tf.concat(outputs, axis=0)

        def step(rows, _, weights):
            return compute_expert(rows[0], *weights), [], []

        inputs, outputs = Inputs([rows], [], stacks), Outputs(width, [], [])
        return unrolled(step, counts, inputs, outputs, self.recompute)[0]

    def compute_output_shape(self, examples_shape):
        self.template.build(examples_shape)
        return (examples_shape[0], *self.template.output_shape)

    def output_width(self, input_dim):
        """N. For a layer that is not built, of examples `[D]`."""
        if self.template.example_shape is None:
            self.template.build((None, input_dim))
        return math.prod(self.template.output_shape)

    def ops_per_row(self, input_dim):
        """Multiply-adds of one expert for one example: all matrix products and convolutions.

        Args:
            input_dim: D; not used if the layer is built.

        Raises:
            NotImplementedError: the layer has a loop, such as a recurrent layer.
        """
        if self.template.example_shape is None:
            self.template.build((None, input_dim))
        return self.template.ops()

    def hidden_per_row(self):
        raise NotImplementedError(
            f"{self.name}: what the layer {self.template.name!r} keeps for the backward pass is "
            "not known"
        )

    def dropout_per_row(self):
        """Bytes kept for dropout: none, as layers with dropout are refused."""
        return 0

    def own_config(self):
        """The constructor arguments of a mixture for these experts."""
        return {
            "num_experts": self.num_experts,
            "hidden_units": None,
            "recompute": self.recompute,
            "experts": self.template.config,
        }

    def get_config(self):
        config = {"num_experts": self.num_experts, "layer": self.template.config}
        return {**super().get_config(), **config, "recompute": self.recompute}
