"""Adam whose step is one operation for each variable."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfmoe")
class FusedAdam(keras.optimizers.Adam):
    """Keras' Adam, with TensorFlow's fused operation for each variable with a dense gradient.

    The update, the options and the slots are those of `keras.optimizers.Adam` (Kingma and Ba 2015,
    "Adam: A Method for Stochastic Optimization"): a checkpoint of one can be restored into the
    other. Results agree up to rounding. The operation reads the gradient, the weights and both
    moments once, and writes the last three once. Keras' own step consists of a dozen operations,
    most of which read and write a tensor of the variable's size. Sparse gradients, bfloat16
    variables and `amsgrad` use Keras' step.

    Args:
        learning_rate: float, schedule or callable.
        beta_1: decay rate of the first moment.
        beta_2: decay rate of the second moment.
        epsilon: ε, added to the root of the second moment.
        amsgrad: whether to divide by the largest second moment so far.
        **kwargs: arguments of every Keras optimizer, as for `FactoredAdam`.

    Example:
        >>> model = keras.Sequential([MoE(num_experts=4, hidden_units=64)])
        >>> model.compile(FusedAdam(WarmupInverseSqrt(1e-3)))
    """

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable.

        Args:
            gradient: tensor or `tf.IndexedSlices`.
            variable: `tf.Variable`; under a strategy, that of one device.
            learning_rate: scalar.
        """
        # On a GPU the operation has no kernel for bfloat16.
        is_bfloat16 = variable.dtype == tf.bfloat16
        if self.amsgrad or is_bfloat16 or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        index, dtype = self._get_variable_index(variable), variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.cast(self.beta_1, dtype), tf.cast(self.beta_2, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=tf.pow(beta_1, step),
            beta2_power=tf.pow(beta_2, step),
            lr=tf.cast(learning_rate, dtype),
            beta1=beta_1,
            beta2=beta_2,
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.cast(gradient, dtype),
        )
