"""Regularizers and constraints of a stack of experts: those of a dense layer, for each expert.

Axes: E experts, R replicas.
"""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.distribute.keras_optimizer import is_sharded

# Each is a sum over elements, or a function of an element: the same for a stack as for its parts.
SUMS = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
ELEMENTWISE = (keras.constraints.NonNeg,)
# The norms of a stack have the axes of an expert's weight, one further.
NORMS = (keras.constraints.MaxNorm, keras.constraints.MinMaxNorm, keras.constraints.UnitNorm)


class StackRegularizer:
    """The sum of a regularizer over the experts of a stack `[E, ...]`.

    In the replicas of a `MixedStrategy` it is the sum over the experts of all devices, in each
    replica. Its gradient is that of the sum of the losses of all replicas, so a loss that each
    replica divides by R has the gradients of one device.

    Args:
        regularizer: a Keras regularizer, or a function of a weight that returns a scalar.
        gated: whether the weights are those of gated layers, `[W_gate, W_up]`: both are regularized
            like a weight of their own.
    """

    def __init__(self, regularizer, gated=False):
        self.regularizer, self.gated = regularizer, gated

    def __call__(self, variable):
        stack = tf.convert_to_tensor(variable)
        total = self._total(separated(stack) if self.gated else stack)
        is_shard = is_sharded(getattr(variable, "value", variable))
        return collectives.all_reduce_sum(total) if is_shard else total

    def _total(self, stack):
        if type(self.regularizer) in SUMS:
            return self.regularizer(stack)
        if stack.shape[0] == 0:
            return tf.reduce_sum(stack)  # 0, on a device without experts
        return tf.reduce_sum(tf.vectorized_map(self.regularizer, stack))


class StackConstraint:
    """A constraint that is applied to each expert of a stack `[E, ...]`; in the replicas of a
    `MixedStrategy` to the experts of this device.

    Args:
        constraint: a Keras constraint, or a function of a weight that returns one.
        gated: as for `StackRegularizer`.
    """

    def __init__(self, constraint, gated=False):
        self.constraint, self.gated = constraint, gated

    def __call__(self, variable):
        stack = tf.convert_to_tensor(variable)
        if type(self.constraint) in ELEMENTWISE:
            return self.constraint(stack)
        if stack.shape[0] == 0:
            return stack
        parts = self._constrained(separated(stack) if self.gated else stack)
        return tf.concat(tf.split(parts, 2), axis=-1) if self.gated else parts

    def _constrained(self, stack):
        if type(self.constraint) in NORMS:
            config = self.constraint.get_config()
            axes = tf.nest.map_structure(lambda i: i + 1 if i >= 0 else i, config["axis"])
            return type(self.constraint)(**{**config, "axis": axes})(stack)
        return tf.vectorized_map(self.constraint, stack)


def penalties(regularizer, constraint, gated=False):
    """The arguments `regularizer` and `constraint` of `add_weight` for a stack `[E, ...]`.

    Args:
        regularizer: that of a dense layer, or `None`.
        constraint: that of a dense layer, or `None`.
        gated: as for `StackRegularizer`.
    """
    return {
        "regularizer": None if regularizer is None else StackRegularizer(regularizer, gated),
        "constraint": None if constraint is None else StackConstraint(constraint, gated),
    }


def separated(stack):
    """The weights of the gates, then those of the other factor: `[E, …, 2H]` to `[2E, …, H]`."""
    return tf.concat(tf.split(stack, 2, axis=-1), axis=0)
