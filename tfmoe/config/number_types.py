"""Types of numbers in a config.

Every number has an upper limit: beyond it TensorFlow overflows, or a process ends without a word.
Messages name a limit of a thousand or more only where a value is past it.
"""

from typing import Annotated

import keras
from pydantic import AfterValidator, Field

MOST = 2**31 - 1  # of int32
MOST_FLOAT = 1e38  # about that of float32

Integer = Annotated[int, Field(ge=-MOST, le=MOST)]
Number = Annotated[float, Field(ge=-MOST_FLOAT, le=MOST_FLOAT)]
AtLeastOne = Annotated[int, Field(ge=1, le=MOST)]
AtLeastZero = Annotated[int, Field(ge=0, le=MOST)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, le=MOST_FLOAT)]
NotNegative = Annotated[float, Field(ge=0, le=MOST_FLOAT)]
Fraction = Annotated[float, Field(ge=0, lt=1)]

# The product of two widths and a number of experts stays below 2^63.
Width = Annotated[int, Field(ge=1, le=2**20)]
Experts = Annotated[int, Field(ge=1, le=2**22)]
Depth = Annotated[int, Field(ge=1, le=1000)]
# A thousand rows at a time are as wide as the longest row.
Steps = Annotated[int, Field(ge=1, le=2**14)]
# A shuffle buffer has a place for each row from the beginning.
ShuffleBuffer = Annotated[int, Field(ge=1, le=10**7)]
# Generated sentences are held in memory, to have each of them once.
Sentences = Annotated[int, Field(ge=1, le=10**7)]


class Words:
    """In the metadata of a type: what messages say that a value must be."""

    def __init__(self, words):
        self.words = words


def _initializer(name):
    """`name` if it is one of Keras' initializers that needs no argument; a ValueError
    otherwise.
    """
    try:
        keras.initializers.get(name)
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(name) from error
    return name


Initializer = Annotated[
    str,
    AfterValidator(_initializer),
    Words("the name of a Keras initializer, such as glorot_uniform"),
]

# Of the arguments of blocks and gates, by name.
LAYER_FIELDS = {
    "units": Width,
    "hidden_units": Width,
    "projection_units": Width | None,
    "attention_units": Width | None,
    "depth": Depth,
    "num_experts": Experts,
    "groups": Experts | None,
    "k": Experts,
    "importance_weight": NotNegative,
    "load_weight": NotNegative,
    "balance_weight": NotNegative,
    "noise_floor": NotNegative,
    "seed": Seed | None,
    "capacity_factor": Positive | None,
    "evaluation_capacity_factor": Positive | None,
    "kernel_initializer": Initializer,
    "recurrent_initializer": Initializer,
}
# Of the settings of corpora.
CORPUS_FIELDS = {
    "seed": Seed,
    "grammars": AtLeastOne,
    "symbols": Annotated[int, Field(ge=2, le=MOST)],
    "successors": AtLeastOne,
    "length": Steps,
    "skew": NotNegative,
    "sentences": Sentences,
    "train_sentences": Sentences,
    "valid_sentences": Sentences,
    "test_sentences": Sentences,
}
