"""Adagrad with the paper's small slots for experts (App. D)."""

import keras
import tensorflow as tf

from tfmoe.optimizers.factoring import (
    LearningRate,
    add_slots,
    factored_update,
    select_factored,
    validate_rule,
)


@keras.saving.register_keras_serializable("tfmoe")
class FactoredAdagrad(keras.optimizers.Adagrad):
    """Adagrad that keeps two vectors per matrix, instead of a matrix, for the experts (App. D).

    For each matrix `[I, O]` of a factored variable `[..., I, O]`, with gradient g:

        rows_i    ← rows_i + mean_j g²_ij
        columns_j ← columns_j + mean_i g²_ij
        V_ij      = rows_i columns_j / mean_i(rows_i)
        w_ij      ← w_ij - α g_ij / √(V_ij + ε)

    with ε as in Keras' Adagrad. The two optimizers are equal if the sum of g² and its initial value
    is a product `a_i b_j`. All other variables are updated by Keras' Adagrad. The remarks on memory
    in `FactoredAdam` apply.

    Args:
        learning_rate: float, schedule or callable.
        initial_accumulator_value: the initial value of all sums.
        epsilon: ε.
        factored: the factored variables, as for `FactoredAdam`.
        **kwargs: arguments of every Keras optimizer.

    Raises:
        ValueError: as for `FactoredAdam`; `initial_accumulator_value` is negative.

    Example:
        >>> model = keras.Sequential([MoE(num_experts=4, hidden_units=64)])
        >>> model.compile(FactoredAdagrad(0.1))
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        initial_accumulator_value: float = 0.1,
        epsilon: float = 1e-7,
        factored: str | list[str] = "experts",
        **kwargs,
    ):
        super().__init__(learning_rate, initial_accumulator_value, epsilon, **kwargs)
        if not initial_accumulator_value >= 0:
            raise ValueError(
                f"initial_accumulator_value must be at least 0, got {initial_accumulator_value}"
            )
        self.factored = validate_rule(factored)

    def build(self, variables: list) -> None:
        """Creates the slots.

        Args:
            variables: list of `keras.Variable`.
        """
        if self.built:
            return
        factored_flags = select_factored(variables, self.factored)
        keras.optimizers.Optimizer.build(self, variables)
        initializer = keras.initializers.Constant(self.initial_accumulator_value)
        # One entry for each variable; `None` if it has no such slot.
        slots: list = []
        accumulators: list = []
        for variable, is_factored in zip(variables, factored_flags, strict=True):
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
            variable: `tf.Variable`; under a strategy, that of one device.
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
