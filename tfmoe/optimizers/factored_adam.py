"""Adam with the paper's small slots for experts (App. D)."""

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
class FactoredAdam(keras.optimizers.Adam):
    """Adam that keeps two vectors per matrix, instead of two matrices, for the experts (App. D).

    For each matrix `[I, O]` of a factored variable `[..., I, O]`, at step t with gradient g:

        rows_i    ← β₂ rows_i + (1 - β₂) mean_j g²_ij
        columns_j ← β₂ columns_j + (1 - β₂) mean_i g²_ij
        V_ij      = rows_i columns_j / mean_i(rows_i)
        w_ij      ← w_ij - α √(1 - β₂ᵗ) g_ij / (√V_ij + ε)

    This is Adam's update with β₁ = 0 and V in place of the second moment; bias correction and ε are
    as in Keras' Adam. The two optimizers are equal if the moving average of g² is a product
    `a_i b_j`. All other variables, including the biases of experts, are updated by Keras' Adam.

    Paper: App. D does not say which parameters keep an ordinary Adam; here all but the experts.

    The update needs no more memory than the gradient: large stacks are updated a few matrices at a
    time, and experts without a gradient are skipped. Some options of every Keras optimizer,
    however, need a full-size tensor for each variable, including experts:
    `gradient_accumulation_steps` keeps a sum of gradients, `use_ema` an average of weights;
    `weight_decay`, clipping and loss scaling make a copy during a step.

    Args:
        learning_rate: float, schedule or callable.
        beta_1: β₁ of the variables that are not factored.
        beta_2: β₂ of all variables.
        epsilon: ε of all variables.
        factored: the factored variables: `"experts"` (the kernels `[n, d_in, d_out]` of
            `tfmoe.layers.Experts`, in a layer named "experts" as in `MoE`), `"matrices"` (all
            variables of rank 2 or more except the biases of experts; the last two axes are the
            matrix), `"none"`, or a list of path fragments, for all variables with one of them in
            their path, such as `["experts/kernel", "embedding"]`.
        factored_beta_1: β₁ of the factored variables; above 0 they keep a full first moment.
        **kwargs: arguments of every Keras optimizer: `weight_decay`, `clipnorm`, `clipvalue`,
            `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`, `name`.

    Raises:
        ValueError: the rule is unknown, a decay rate is outside [0, 1), or `amsgrad` is set, which
            needs a full-size slot; in `build`, no path contains a fragment, or a factored variable
            has a rank below 2.

    Example:
        >>> model = keras.Sequential([MoE(num_experts=4, hidden_units=64)])
        >>> model.compile(FactoredAdam(WarmupInverseSqrt(1e-3), factored="experts"))
    """

    def __init__(
        self,
        learning_rate: LearningRate = 0.001,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        factored: str | list[str] = "experts",
        factored_beta_1: float = 0.0,
        **kwargs,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **kwargs)
        rates = {"beta_1": beta_1, "beta_2": beta_2, "factored_beta_1": factored_beta_1}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")
        if self.amsgrad:
            raise ValueError(
                "amsgrad must be False: it keeps the maximum second moment of every weight, which "
                "cannot be factored"
            )
        self.factored = validate_rule(factored)
        self.factored_beta_1 = factored_beta_1

    def build(self, variables: list) -> None:
        """Creates the slots.

        Args:
            variables: list of `keras.Variable`.
        """
        if self.built:
            return
        factored_flags = select_factored(variables, self.factored)
        keras.optimizers.Optimizer.build(self, variables)
        # One entry for each variable; `None` if it has no such slot.
        slots, momentums, velocities = [], [], []
        for variable, is_factored in zip(variables, factored_flags, strict=True):
            names = ["momentum"] if not is_factored or self.factored_beta_1 else []
            names += [] if is_factored else ["velocity"]
            full_slots = {name: self.add_optimizer_variables([variable], name)[0] for name in names}
            momentums.append(full_slots.get("momentum"))
            velocities.append(full_slots.get("velocity"))
            slots.append(add_slots(self, variable) if is_factored else None)
        self._momentums, self._velocities = momentums, velocities
        self._factored_slots = slots

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable.

        Args:
            gradient: tensor or `tf.IndexedSlices`.
            variable: `tf.Variable`; under a strategy, that of one device.
            learning_rate: scalar.
        """
        index = self._get_variable_index(variable)
        slots = self._factored_slots[index]
        if slots is None:
            super().update_step(gradient, variable, learning_rate)
            return
        dtype = slots[0].dtype
        step = tf.cast(self.iterations + 1, dtype)
        beta_1, beta_2 = tf.cast(self.factored_beta_1, dtype), tf.cast(self.beta_2, dtype)
        rate = tf.cast(learning_rate, dtype)
        rate = rate * tf.sqrt(1 - tf.pow(beta_2, step)) / (1 - tf.pow(beta_1, step))
        momentum = self._momentums[index]
        if momentum is not None:
            gradient = tf.cast(tf.convert_to_tensor(gradient), momentum.dtype)
            self.assign_add(momentum, (gradient - momentum) * (1 - self.factored_beta_1))
            momentum = tf.cast(tf.convert_to_tensor(momentum), dtype)
        factored_update(
            self,
            variable,
            gradient,
            slots,
            accumulate=lambda average, squares: average + (squares - average) * (1 - self.beta_2),
            # √a · √b instead of √(a · b): the product of two squares can underflow in float32.
            denominator=lambda a, b: tf.sqrt(a) * tf.sqrt(b) + self.epsilon,
            rate=rate,
            momentum=momentum,
        )

    def get_config(self):
        return {
            **super().get_config(),
            "factored": self.factored,
            "factored_beta_1": self.factored_beta_1,
        }
