"""The schema of a config and all its defaults, one class per section.

`null` in a config is `None` here. A `name` (of a corpus, block, gate, optimizer or schedule) is the
name of a registered class or function.
"""

from tfmoe.config.data_schema import Data
from tfmoe.config.distribute_schema import STRATEGY_SECTIONS, Distribute
from tfmoe.config.model_schema import Model
from tfmoe.config.named import Section
from tfmoe.config.number_types import NonNegativeFloat, PositiveFloat
from tfmoe.config.training_schema import Training


class Paper(Section):
    """The row of the paper's tables that a config reproduces, with the printed figures.

    Keys:
        table: such as "Table 7".
        row: such as "MoE-256".
        perplexity: on the test set.
        bleu: on the test set.
        ops_per_timestep_millions: multiply-adds per token, in millions: of a language model without
            embedding and softmax, of a translation model with the softmax and without gates.
        parameters_millions: parameters without embedding and softmax, in millions.
        total_billions: parameters with embedding and softmax, in billions.
        cv_importance: coefficient of variation of the experts' importance (Table 6).
        cv_load: coefficient of variation of the experts' load (Table 6).
        max_over_mean_load: load of the busiest expert over the mean load (Table 6).
    """

    table: str
    row: str
    perplexity: PositiveFloat | None = None
    bleu: PositiveFloat | None = None
    ops_per_timestep_millions: PositiveFloat | None = None
    parameters_millions: PositiveFloat | None = None
    total_billions: PositiveFloat | None = None
    cv_importance: NonNegativeFloat | None = None
    cv_load: NonNegativeFloat | None = None
    max_over_mean_load: PositiveFloat | None = None


class Config(Section):
    """A whole config.

    Keys:
        paper: the row of the paper's tables that the config reproduces, if any.
        model: the model.
        data: the corpus, the vocabulary and the size of a batch.
        training: the optimizer and the length of training.
        distribute: the devices to train on.
    """

    paper: Paper | None = None
    model: Model
    data: Data
    training: Training = Training()
    distribute: Distribute = STRATEGY_SECTIONS["none"]()
