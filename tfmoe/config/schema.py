"""What a config can say, with every default. One class for each section.

`null` in a config is `None` here. Names (of data, blocks, gates, optimizers, schedules) stand for
registered things only.
"""

from tfmoe.config.data_schema import Data
from tfmoe.config.distribute_schema import STRATEGY_SECTIONS, Distribute
from tfmoe.config.model_schema import Model
from tfmoe.config.named import Section
from tfmoe.config.number_types import NotNegative, Positive
from tfmoe.config.training_schema import Training


class Paper(Section):
    """The table row that a config stands for, and what the paper printed there.

    Keys:
        table, row: such as "Table 7" and "MoE-256".
        perplexity, bleu: on the test set.
        ops_per_timestep_millions: multiply-adds for a token: of a language model without embedding
            and softmax, of a translation model with the softmax and without gates.
        parameters_millions: without embedding and softmax.
        total_billions: parameters with embedding and softmax.
        cv_importance, cv_load, max_over_mean_load: how evenly the experts were used (Table 6).
    """

    table: str
    row: str
    perplexity: Positive | None = None
    bleu: Positive | None = None
    ops_per_timestep_millions: Positive | None = None
    parameters_millions: Positive | None = None
    total_billions: Positive | None = None
    cv_importance: NotNegative | None = None
    cv_load: NotNegative | None = None
    max_over_mean_load: Positive | None = None


class Config(Section):
    """A whole config: a model, its data, its training, the devices to train on, and the table row
    it stands for, if any.
    """

    paper: Paper | None = None
    model: Model
    data: Data
    training: Training = Training()
    distribute: Distribute = STRATEGY_SECTIONS["none"]()
