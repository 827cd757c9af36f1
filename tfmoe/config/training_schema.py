"""The section `training`. The keys of an optimizer and of a schedule are the arguments of its
constructor, and are documented there.
"""

from typing import Literal

import keras

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import AtLeastOne, AtLeastZero, Fraction, NotNegative, Positive, Seed
from tfmoe.config.sections import arguments_of, section_of
from tfmoe.optimizers import OPTIMIZERS, SCHEDULES

# Ranges that Keras' constructors do not check, and types that their defaults do not tell.
OPTIMIZER_FIELDS = {
    "learning_rate": Positive,
    "weight_decay": NotNegative | None,
    "beta_1": Fraction,
    "beta_2": Fraction,
    "adam_beta_1": Fraction,
    "adam_beta_2": Fraction,
    "rho": Fraction,
    "momentum": Fraction,
    "epsilon": Positive,
    "initial_accumulator_value": NotNegative,
    "adam_lr_ratio": Positive,
    "clip_threshold": Positive,
    "ns_steps": AtLeastOne,
    "warmup_steps": AtLeastZero,
    "exclude_layers": list[str] | None,
    "factored_beta_1": Fraction,
    "adam_weight_decay": NotNegative,
    "l1_regularization_strength": NotNegative,
    "l2_regularization_strength": NotNegative,
    "l2_shrinkage_regularization_strength": NotNegative,
}
SCHEDULE_FIELDS = {
    "constant": {},
    "warmup_inverse_sqrt": {"warmup_steps": AtLeastOne, "constant_steps": AtLeastZero},
    "cosine_decay": {"steps": AtLeastOne, "warmup_steps": AtLeastZero, "final_fraction": Fraction},
}
# Of the arguments that every Keras optimizer has, a config has these, and the two limits below.
SHARED = {"learning_rate", "weight_decay"}

SCHEDULE_SECTIONS = {
    name: section_of(schedule, name, leave_out=["peak"], fields=SCHEDULE_FIELDS.get(name))
    for name, schedule in SCHEDULES.items()
}
MORE_KEYS = {
    # See `tfmoe.optimizers.SCHEDULES`: they reach `learning_rate` at most.
    "schedule": (
        one_of(*SCHEDULE_SECTIONS.values(), default="constant"),
        SCHEDULE_SECTIONS["constant"](),
    ),
    # The most that the norm of one variable's gradient may be, or that of all gradients together;
    # null for no limit. One of the two at most.
    "clip_norm": (Positive | None, None),
    "global_clip_norm": (Positive | None, None),
}
OPTIMIZER_SECTIONS = {
    name: section_of(
        optimizer,
        name,
        base=keras.optimizers.Optimizer,
        leave_out=arguments_of(keras.optimizers.Optimizer).keys() - SHARED,
        fields=OPTIMIZER_FIELDS,
        more=MORE_KEYS,
    )
    for name, optimizer in OPTIMIZERS.items()
}
Optimizer = one_of(*OPTIMIZER_SECTIONS.values(), default="adam")


class Training(Section):
    """How to train.

    Keys:
        seed: of initial weights, dropout, noise and the order of batches.
        epochs: how many.
        steps_per_epoch: batches in an epoch; null for one full pass over the training text.
        optimizer: name and arguments of an optimizer of `tfmoe.optimizers.OPTIMIZERS`, which
            holds all of Keras; beside them schedule, clip_norm and global_clip_norm.
        dtype_policy: `mixed_bfloat16` keeps variables and gates in float32.
        jit_compile: whether XLA compiles the training step.
        validation_batches: at the end of an epoch; null for all.
        checkpoint_every_steps: null for the end of every epoch only.
    """

    seed: Seed = 0
    epochs: AtLeastOne = 10
    steps_per_epoch: AtLeastOne | None = None
    optimizer: Optimizer = OPTIMIZER_SECTIONS["adam"]()
    dtype_policy: Literal["float32", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    validation_batches: AtLeastOne | None = None
    checkpoint_every_steps: AtLeastOne | None = None
