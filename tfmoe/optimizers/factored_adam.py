"""Adam with the paper's small slots for experts (App. D)."""

import keras
import tensorflow as tf

from tfmoe.optimizers.factoring import add_slots, checked_rule, choose, factored_update


@keras.saving.register_keras_serializable("tfmoe")
class FactoredAdam(keras.optimizers.Adam):
    """Adam that keeps, for chosen variables, two vectors a matrix in place of two matrices
    (App. D).

    For each matrix `[I, O]` of a chosen variable `[..., I, O]`, at step t with gradient g:

        rows_i    ← β₂ rows_i + (1 - β₂) mean_j g²_ij
        columns_j ← β₂ columns_j + (1 - β₂) mean_i g²_ij
        V_ij      = rows_i columns_j / mean_i(rows_i)
        w_ij      ← w_ij - α √(1 - β₂ᵗ) g_ij / (√V_ij + ε)

    which is Adam's update with β₁ = 0 and V in place of its second moment; bias correction and ε
    are where Keras' Adam has them. The two agree exactly where the moving average of g² is a
    product `a_i b_j`. All other variables, biases of experts among them, get Keras' Adam unchanged.

    Paper: App. D does not say which parameters keep an ordinary Adam; here all but the experts.

    The update needs no more memory than the gradient: large stacks are updated a few matrices at a
    time, and experts without gradient are skipped, which changes nothing. But some options of every
    Keras optimizer take a full-size tensor for each variable, experts included:
    `gradient_accumulation_steps` keeps a sum of gradients, `use_ema` an average of weights;
    `weight_decay`, clipping and loss scaling make a copy for the time of a step.

    Args:
        learning_rate: float, schedule or callable.
        beta_1: β₁ of the variables that are not factored.
        beta_2, epsilon: β₂ and ε of all variables.
        factored: which variables: `"experts"` (the kernels `[n, d_in, d_out]` of
            `tfmoe.layers.Experts`, in a layer called "experts" as that of `MoE` is), `"matrices"`
            (all of rank 2 and more but the biases of experts; the last two axes are the matrix),
            `"none"`, or a list of fragments: all variables with one of them in their path, such as
            `["experts/kernel", "embedding"]`.
        factored_beta_1: β₁ of the factored variables; above 0 they keep a full first moment.
        **kwargs: those of every Keras optimizer: `weight_decay`, `clipnorm`, `clipvalue`,
            `global_clipnorm`, `use_ema`, `ema_momentum`, `ema_overwrite_frequency`,
            `loss_scale_factor`, `gradient_accumulation_steps`, `name`.

    Raises:
        ValueError: for an unknown rule, a decay rate outside [0, 1), and `amsgrad`, which needs a
            full-size slot; when the variables are known (`build`), for a fragment that is in no
            path and a chosen variable of rank under 2.

    Example:
        >>> model = keras.Sequential([MoE(num_experts=4, hidden_units=64)])
        >>> model.compile(FactoredAdam(WarmupInverseSqrt(1e-3), factored="experts"))
    """

    def __init__(
        self,
        learning_rate=0.001,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        factored: str | list[str] = "experts",
        factored_beta_1=0.0,
        **kwargs,
    ):
        super().__init__(learning_rate, beta_1, beta_2, epsilon, **kwargs)
        rates = {"beta_1": beta_1, "beta_2": beta_2, "factored_beta_1": factored_beta_1}
        for name, rate in rates.items():
            if not 0 <= rate < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, got {rate}")
        if self.amsgrad:
            raise ValueError(
                "amsgrad must be False: it keeps the largest second moment of every single weight, "
                "which cannot be factored"
            )
        self.factored = checked_rule(factored)
        self.factored_beta_1 = factored_beta_1

    def build(self, variables):
        """Adds the slots.

        Args:
            variables: list of `keras.Variable`.
        """
        if self.built:
            return
        chosen = choose(variables, self.factored)
        keras.optimizers.Optimizer.build(self, variables)
        # One entry for each variable, `None` where it has no such slot.
        slots, momentums, velocities = [], [], []
        for variable, is_factored in zip(variables, chosen, strict=True):
            names = ["momentum"] if not is_factored or self.factored_beta_1 else []
            names += [] if is_factored else ["velocity"]
            full = {name: self.add_optimizer_variables([variable], name)[0] for name in names}
            momentums.append(full.get("momentum"))
            velocities.append(full.get("velocity"))
            slots.append(add_slots(self, variable) if is_factored else None)
        self._momentums, self._velocities = momentums, velocities
        self._factored_slots = slots

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable.

        Args:
            gradient: tensor or `tf.IndexedSlices`.
            variable: `tf.Variable`; under a strategy, one device's.
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
            # √a · √b and not √(a · b): the product of two squares may be too small for float32.
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
