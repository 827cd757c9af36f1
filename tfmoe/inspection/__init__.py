"""Analysis of trained mixtures: the use of experts, their words, and co-selected experts.

`text` reads text into batches with line numbers; `calls` and `routing` record the experts of each
token in any Keras model; the other modules compute statistics of these routings in NumPy.
"""

from tfmoe.inspection.consistency import Consistency, routing_consistency
from tfmoe.inspection.contexts import Context, contexts, spelling
from tfmoe.inspection.doctor import ExpertHealth
from tfmoe.inspection.information import (
    MutualInformation,
    information_on_labels,
    information_on_tokens,
    label_shares,
    special_experts,
)
from tfmoe.inspection.joint_counts import JointCounts, joint_counts
from tfmoe.inspection.noise import noise_deviation
from tfmoe.inspection.pairs import CoSelection, Pair, co_selection
from tfmoe.inspection.routing import (
    BatchRouter,
    RoutedText,
    TextRouter,
    route_batches,
    route_text,
)
from tfmoe.inspection.routing_table import routing_table, write_routing_table
from tfmoe.inspection.saliency import expert_saliency
from tfmoe.inspection.text import (
    NumberedBatch,
    count_lines,
    numbered_batches,
    numbered_pairs,
    read_labels,
)
from tfmoe.inspection.use import ExpertUse, expert_use, over_mean, use_of_experts
from tfmoe.layers.mixture_layer import mixtures_of

__all__ = [
    "BatchRouter",
    "CoSelection",
    "Consistency",
    "Context",
    "ExpertHealth",
    "ExpertUse",
    "JointCounts",
    "MutualInformation",
    "NumberedBatch",
    "Pair",
    "RoutedText",
    "TextRouter",
    "co_selection",
    "contexts",
    "count_lines",
    "expert_saliency",
    "expert_use",
    "information_on_labels",
    "information_on_tokens",
    "joint_counts",
    "label_shares",
    "mixtures_of",
    "noise_deviation",
    "numbered_batches",
    "numbered_pairs",
    "over_mean",
    "read_labels",
    "route_batches",
    "route_text",
    "routing_consistency",
    "routing_table",
    "special_experts",
    "spelling",
    "use_of_experts",
    "write_routing_table",
]
