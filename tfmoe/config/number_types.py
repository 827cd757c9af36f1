"""Types of numbers in a config.

Every number has an upper limit: beyond it TensorFlow overflows, or the process ends without an
error. Error messages name a limit of 1,000 or more only if the value exceeds it.
"""

from typing import Annotated

import keras
from pydantic import AfterValidator, Field

MAX_INT = 2**31 - 1  # of int32
MAX_FLOAT = 1e38  # about the largest float32

Integer = Annotated[int, Field(ge=-MAX_INT, le=MAX_INT)]
Float = Annotated[float, Field(ge=-MAX_FLOAT, le=MAX_FLOAT)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_INT)]
NonNegativeInt = Annotated[int, Field(ge=0, le=MAX_INT)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PositiveFloat = Annotated[float, Field(gt=0, le=MAX_FLOAT)]
NonNegativeFloat = Annotated[float, Field(ge=0, le=MAX_FLOAT)]
Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# The product of two widths and an expert count stays below 2^63.
Width = Annotated[int, Field(ge=1, le=2**20)]
Experts = Annotated[int, Field(ge=1, le=2**22)]
Depth = Annotated[int, Field(ge=1, le=1000)]
# 1,000 rows are padded together to the length of the longest.
Steps = Annotated[int, Field(ge=1, le=2**14)]
# Without effect, but earlier configs have it.
ShuffleBuffer = Annotated[int, Field(ge=1, le=10**7)]
# Generated sentences are kept in memory, to remove duplicates.
Sentences = Annotated[int, Field(ge=1, le=10**7)]


class Expected:
    """Metadata of a type: what error messages say that a value must be."""

    def __init__(self, text):
        self.text = text


def named_by_keras(kind, get, example):
    """The type of the names of Keras objects that need no arguments.

    Args:
        kind: what they are, for the error.
        get: Keras' function that returns the object of a name.
        example: such a name.
    """

    def check(name):
        try:
            get(name)
        except (ValueError, TypeError, KeyError) as error:
            raise ValueError(name) from error
        return name

    expected = Expected(f"the name of a Keras {kind}, such as {example}")
    return Annotated[str, AfterValidator(check), expected]


Initializer = named_by_keras("initializer", keras.initializers.get, "glorot_uniform")
Regularizer = named_by_keras("regularizer", keras.regularizers.get, "l2")
Constraint = named_by_keras("constraint", keras.constraints.get, "unit_norm")

# Types of the arguments of blocks and gates.
LAYER_FIELDS = {
    "units": Width,
    "hidden_units": (Width, ...),
    "projection_units": Width | None,
    "attention_units": Width | None,
    "num_heads": Width,
    "num_key_value_heads": Width | None,
    "head_units": Width | None,
    "rotary_base": PositiveFloat | None,
    "depth": Depth,
    "num_experts": Experts,
    "groups": Experts | None,
    "shared_experts": Annotated[int, Field(ge=0, le=2**10)],
    "k": Experts,
    "importance_weight": NonNegativeFloat,
    "load_weight": NonNegativeFloat | None,
    "balance_weight": NonNegativeFloat,
    "z_loss_weight": NonNegativeFloat,
    "jitter": Fraction,
    "scale": PositiveFloat,
    "second_threshold": Probability,
    "gate_hidden_units": Width | None,
    "noise_floor": NonNegativeFloat,
    "seed": Seed | None,
    "expert_dropout": Fraction,
    "capacity_factor": PositiveFloat | None,
    "minimum_capacity": NonNegativeInt,
    "evaluation_capacity_factor": PositiveFloat | None,
    "bias_step": NonNegativeFloat,
    "sequence_weight": NonNegativeFloat,
    "expert_groups": Experts | None,
    "groups_per_token": Experts,
    "best_per_group": Experts,
    "ema": Fraction,
    # A table of the size of the vocabulary is made in Python.
    "vocabulary_size": Annotated[int, Field(ge=1, le=2**24)] | None,
    "kernel_initializer": Initializer,
    "bias_initializer": Initializer,
    "kernel_regularizer": Regularizer | None,
    "bias_regularizer": Regularizer | None,
    "kernel_constraint": Constraint | None,
    "bias_constraint": Constraint | None,
    "recurrent_initializer": Initializer,
}
# Types of the settings of corpora.
CORPUS_FIELDS = {
    "seed": Seed,
    "grammars": PositiveInt,
    "symbols": Annotated[int, Field(ge=2, le=MAX_INT)],
    "successors": PositiveInt,
    "length": Steps,
    "skew": NonNegativeFloat,
    "sentences": Sentences,
    "train_sentences": Sentences,
    "valid_sentences": Sentences,
    "test_sentences": Sentences,
}
