"""The base class of learned gates that set a capacity for their experts."""

from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.ops.arguments import count, positive_or_none


class LimitedGate(LearnedGate):
    """Base class of gates that limit the rows of an expert.

    Args:
        capacity_factor: `None` for no limit. Otherwise an expert accepts at most
            `ceil(capacity_factor · T / n)` of the T tokens of a training batch (of the global
            batch; at the inner level of a hierarchical mixture, of the group). The output for a
            token without an expert is 0, so put the layer in a residual connection.
        evaluation_capacity_factor: the same outside of training. With a limit the output for a
            token depends on the rest of its batch.
        minimum_capacity: an expert with a capacity accepts at least this many tokens.

    Raises:
        ValueError: an argument is out of range.
    """

    def __init__(
        self,
        capacity_factor: float | None = None,
        evaluation_capacity_factor: float | None = None,
        minimum_capacity: int = 4,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.capacity_factor = positive_or_none("capacity_factor", capacity_factor)
        self.evaluation_capacity_factor = positive_or_none(
            "evaluation_capacity_factor", evaluation_capacity_factor
        )
        self.minimum_capacity = count("minimum_capacity", minimum_capacity)

    def token_capacity(self, training):
        return self.capacity_factor if training else self.evaluation_capacity_factor

    def get_config(self):
        return {
            **super().get_config(),
            "capacity_factor": self.capacity_factor,
            "evaluation_capacity_factor": self.evaluation_capacity_factor,
            "minimum_capacity": self.minimum_capacity,
        }
