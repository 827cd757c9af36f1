"""Adagrad with the paper's small slots for experts (App. D)."""

import keras
import tensorflow as tf

from tfmoe.optimizers.factoring import add_slots, checked_rule, choose, factored_update


@keras.saving.register_keras_serializable("tfmoe")
class FactoredAdagrad(keras.optimizers.Adagrad):
    """Adagrad that keeps, for chosen variables, two vectors a matrix in place of a matrix
    (App. D).

    For each matrix `[I, O]` of a chosen variable `[..., I, O]`, with gradient g:

        rows_i    ← rows_i + mean_j g²_ij
        columns_j ← columns_j + mean_i g²_ij
        V_ij      = rows_i columns_j / mean_i(rows_i)
        w_ij      ← w_ij - α g_ij / √(V_ij + ε)

    with ε where Keras' Adagrad has it. The two agree exactly where the sum of g² and its initial
    value is a product `a_i b_j`. All other variables get Keras' Adagrad unchanged. What
    `FactoredAdam` says of memory holds here too.

    Args:
        learning_rate: float, schedule or callable.
        initial_accumulator_value: where all sums begin.
        epsilon: ε.
        factored: which variables, as for `FactoredAdam`.
        **kwargs: those of every Keras optimizer.

    Raises:
        ValueError: as `FactoredAdam`, and for a negative `initial_accumulator_value`.
    """

    def __init__(
        self,
        learning_rate=0.001,
        initial_accumulator_value=0.1,
        epsilon=1e-7,
        factored: str | list[str] = "experts",
        **kwargs,
    ):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, **kwargs)
        if not initial_accumulator_value >= 0:
            raise ValueError(
                f"initial_accumulator_value must be at least 0, got {initial_accumulator_value}"
            )
        self.factored = checked_rule(factored)

    def build(self, variables):
        """Adds the slots.

        Args:
            variables: list of `keras.Variable`.
        """
        if self.built:
            return
        chosen = choose(variables, self.factored)
        keras.optimizers.Optimizer.build(self, variables)
        initializer = keras.initializers.Constant(self.initial_accumulator_value)
        # One entry for each variable, `None` where it has no such slot.
        slots, accumulators = [], []
        for variable, is_factored in zip(variables, chosen, strict=True):
            if is_factored:
                slots.append(add_slots(self, variable, initializer))
                accumulators.append(None)
            else:
                slots.append(None)
                accumulators += self.add_optimizer_variables([variable], "accumulator", initializer)
        self._accumulators = accumulators
        self._factored_slots = slots

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable.

        Args:
            gradient: tensor or `tf.IndexedSlices`.
            variable: `tf.Variable`; under a strategy, one device's.
            learning_rate: scalar.
        """
        slots = self._factored_slots[self._get_variable_index(variable)]
        if slots is None:
            super().update_step(gradient, variable, learning_rate)
            return
        factored_update(
            self,
            variable,
            gradient,
            slots,
            accumulate=lambda total, squares: total + squares,
            denominator=lambda a, b: tf.sqrt(a * b + self.epsilon),
            rate=tf.cast(learning_rate, slots[0].dtype),
        )

    def get_config(self):
        return {**super().get_config(), "factored": self.factored}
