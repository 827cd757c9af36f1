"""The section `training`. The keys of an optimizer or a schedule are the arguments of its class or
function, documented there.
"""

from typing import TYPE_CHECKING, Any, Literal

import keras

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import (
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    Seed,
)
from tfmoe.config.sections import arguments_of, section_of
from tfmoe.optimizers import OPTIMIZERS, SCHEDULES

# Ranges that Keras does not check, and types that cannot be inferred from defaults.
OPTIMIZER_FIELDS = {
    "learning_rate": PositiveFloat,
    "weight_decay": NonNegativeFloat | None,
    "beta_1": Fraction,
    "beta_2": Fraction,
    "adam_beta_1": Fraction,
    "adam_beta_2": Fraction,
    "rho": Fraction,
    "momentum": Fraction,
    "epsilon": PositiveFloat,
    "initial_accumulator_value": NonNegativeFloat,
    "adam_lr_ratio": PositiveFloat,
    "clip_threshold": PositiveFloat,
    "ns_steps": PositiveInt,
    "warmup_steps": NonNegativeInt,
    "exclude_layers": list[str] | None,
    "factored_beta_1": Fraction,
    "adam_weight_decay": NonNegativeFloat,
    "l1_regularization_strength": NonNegativeFloat,
    "l2_regularization_strength": NonNegativeFloat,
    "l2_shrinkage_regularization_strength": NonNegativeFloat,
}
SCHEDULE_FIELDS = {
    "constant": {},
    "warmup_inverse_sqrt": {"warmup_steps": PositiveInt, "constant_steps": NonNegativeInt},
    "cosine_decay": {
        "steps": PositiveInt,
        "warmup_steps": NonNegativeInt,
        "final_fraction": Fraction,
    },
}
# The arguments of Keras' base class that are keys under the same name. The two clipping norms
# follow below.
SHARED_ARGUMENTS = {"learning_rate", "weight_decay"}

SCHEDULE_SECTIONS = {
    name: section_of(schedule, name, leave_out=["peak"], fields=SCHEDULE_FIELDS.get(name))
    for name, schedule in SCHEDULES.items()
}
# Keys of every optimizer, in addition to its arguments.
MORE_KEYS = {
    "schedule": (
        one_of(*SCHEDULE_SECTIONS.values(), default="constant"),
        SCHEDULE_SECTIONS["constant"](),
        "the learning-rate schedule, name and arguments; learning_rate is its maximum.",
    ),
    "clip_norm": (
        PositiveFloat | None,
        None,
        "maximum norm of the gradient of one variable; null for no limit. Not together with "
        "global_clip_norm.",
    ),
    "global_clip_norm": (
        PositiveFloat | None,
        None,
        "maximum norm of all gradients together; null for no limit.",
    ),
}
OPTIMIZER_SECTIONS = {
    name: section_of(
        optimizer,
        name,
        base=keras.optimizers.Optimizer,
        leave_out=arguments_of(keras.optimizers.Optimizer).keys() - SHARED_ARGUMENTS,
        fields=OPTIMIZER_FIELDS,
        more=MORE_KEYS,
    )
    for name, optimizer in OPTIMIZERS.items()
}
if TYPE_CHECKING:  # the union is only known at run time
    Optimizer = Any
else:
    Optimizer = one_of(*OPTIMIZER_SECTIONS.values(), default="adam")


class Training(Section):
    """How the model is trained.

    Keys:
        seed: seed of the initial weights, dropout, noise and the order of batches.
        epochs: number of epochs.
        steps_per_epoch: batches per epoch; null for one pass over the training text.
        optimizer: name and arguments of an optimizer, one of tfmoe's or Keras'
            (`tfmoe.optimizers.OPTIMIZERS`), with the keys schedule, clip_norm and global_clip_norm.
        dtype_policy: float32, or mixed_bfloat16, which keeps variables and gates in float32.
        jit_compile: whether XLA compiles the steps, again for each shape of a batch. If a layer
            does not support it, Keras warns and trains without XLA (guide "Compile with XLA").
        validation_batches: batches of the validation at the end of an epoch; null for all.
        checkpoint_every_steps: steps between checkpoints; null to save at the end of an epoch only.
    """

    seed: Seed = 0
    epochs: PositiveInt = 10
    steps_per_epoch: PositiveInt | None = None
    optimizer: Optimizer = OPTIMIZER_SECTIONS["adam"]()
    dtype_policy: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    validation_batches: PositiveInt | None = None
    checkpoint_every_steps: PositiveInt | None = None
