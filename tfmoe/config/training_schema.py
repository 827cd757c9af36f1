"""The section `training`."""

from typing import Literal

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import AtLeastOne, AtLeastZero, Fraction, NotNegative, Positive, Seed


class Constant(Section):
    """The same learning rate at every step."""

    name: Literal["constant"] = "constant"


class WarmupInverseSqrt(Section):
    """Rises linearly to the optimizer's learning rate, stays, then falls as 1/√step.

    Keys:
        warmup_steps: steps of the rise.
        constant_steps: steps at the peak.
    """

    name: Literal["warmup_inverse_sqrt"] = "warmup_inverse_sqrt"
    warmup_steps: AtLeastOne = 1000
    constant_steps: AtLeastZero = 0


class CosineDecay(Section):
    """Rises linearly to the optimizer's learning rate, then falls along half a cosine. Not the
    paper's; better where the number of steps is known beforehand, and small.

    Keys:
        steps: of the rise and the fall together; afterwards the rate stays.
        warmup_steps: of the rise.
        final_fraction: of the highest rate, at the end.
    """

    name: Literal["cosine_decay"] = "cosine_decay"
    steps: AtLeastOne
    warmup_steps: AtLeastZero = 0
    final_fraction: Fraction = 0.0


class _Optimizer(Section):
    """What all optimizers have.

    Keys:
        learning_rate: the highest of the schedule.
        schedule: see `WarmupInverseSqrt`, `CosineDecay` and `Constant`.
        clip_norm: the most that the norm of one variable's gradient may be; null for no limit.
        global_clip_norm: the most that the norm of all gradients together may be. One of the two at
            most.
    """

    name: str
    learning_rate: Positive = 1e-3
    schedule: one_of(Constant, WarmupInverseSqrt, CosineDecay, default="constant") = Constant()
    clip_norm: Positive | None = None
    global_clip_norm: Positive | None = None


class Adam(_Optimizer):
    """Keras' Adam.

    Keys:
        beta_1, beta_2, epsilon: Adam's own.
    """

    name: Literal["adam"] = "adam"
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: Positive = 1e-7


class FactoredAdam(_Optimizer):
    """Adam with two vectors in place of two matrices of slots for each matrix of the experts
    (`tfmoe.optimizers.FactoredAdam`).

    Keys:
        beta_1: of the variables that are not factored.
        beta_2, epsilon: of all.
        factored: experts; matrices, for all variables of rank 2 and more; none; or a list of
            fragments of paths, such as [experts/kernel, embedding].
        factored_beta_1: of the factored variables; above 0 they keep a full first moment.
    """

    name: Literal["factored_adam"] = "factored_adam"
    beta_1: Fraction = 0.9
    beta_2: Fraction = 0.999
    epsilon: Positive = 1e-7
    factored: object = "experts"  # the optimizer knows its rules
    factored_beta_1: Fraction = 0.0


class FactoredAdagrad(_Optimizer):
    """Adagrad with two vectors in place of a matrix of slots for each matrix of the experts
    (`tfmoe.optimizers.FactoredAdagrad`).

    Keys:
        initial_accumulator_value: where the sums of squared gradients begin.
        epsilon: Adagrad's own.
        factored: as of `FactoredAdam`.
    """

    name: Literal["factored_adagrad"] = "factored_adagrad"
    initial_accumulator_value: NotNegative = 0.1
    epsilon: Positive = 1e-7
    factored: object = "experts"  # the optimizer knows its rules


Optimizer = one_of(Adam, FactoredAdam, FactoredAdagrad, default="adam")


class Training(Section):
    """How to train.

    Keys:
        seed: of initial weights, dropout, noise and the order of batches.
        epochs: how many.
        steps_per_epoch: batches in an epoch; null for one full pass over the training text.
        optimizer: see `Adam`, `FactoredAdam` and `FactoredAdagrad`.
        dtype_policy: `mixed_bfloat16` keeps variables and gates in float32.
        jit_compile: whether XLA compiles the training step.
        validation_batches: at the end of an epoch; null for all.
        checkpoint_every_steps: null for the end of every epoch only.
    """

    seed: Seed = 0
    epochs: AtLeastOne = 10
    steps_per_epoch: AtLeastOne | None = None
    optimizer: Optimizer = Adam()
    dtype_policy: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    validation_batches: AtLeastOne | None = None
    checkpoint_every_steps: AtLeastOne | None = None
