"""Gates select the experts of each token, and weight their outputs.

| gate | experts per token | use it for |
| --- | --- | --- |
| `NoisyTopK` | exactly k | the paper's default; k of 2 to 4, with two balancing losses |
| `TopK` | exactly k | today's decoders: Mixtral, OLMoE, Qwen3-MoE, gpt-oss |
| `Switch` | 1 | the cheapest mixture: k = 1 with a gradient from the task |
| `GShard` | 1 or 2 | a second expert only where its weight is large |
| `Batchwise` | k on average | the same load for every expert in training, without a loss for it |
| `BiasBalanced` | exactly k | an equal load over time, by a bias and without a loss |
| `ExpertChoice` | 0 to all | an equal load in every batch; not for decoders, and no export |
| `ExpertThreshold` | k on average | as `ExpertChoice`, for decoders: by a moving average |
| `QuantileBalanced` | exactly k | an equal load from the quantiles of the last batch |
| `Hash` | 1 | experts by word, without a gate: what does a learned gate add? |
| `Softmax` | all | few experts, and as a dense reference |
| `Hierarchical` | product of two levels | several hundred experts; different gates at two levels |

Give a gate to a mixture: `MoE(32, 1024, gate=NoisyTopK(k=4))`. A gate is one file; `GATES` lists
them by name.
"""

from tfmoe.gating.batchwise import Batchwise
from tfmoe.gating.bias_balanced import BiasBalanced
from tfmoe.gating.expert_choice import ExpertChoice
from tfmoe.gating.expert_threshold import ExpertThreshold
from tfmoe.gating.gate import Gate
from tfmoe.gating.gshard import GShard
from tfmoe.gating.hash import Hash
from tfmoe.gating.hierarchical import Hierarchical
from tfmoe.gating.learned_gate import LearnedGate
from tfmoe.gating.limited_gate import LimitedGate
from tfmoe.gating.micro_step import MicroStep
from tfmoe.gating.noisy_top_k import NoisyTopK
from tfmoe.gating.quantile_balanced import QuantileBalanced
from tfmoe.gating.registry import FLAT_GATES, gate_of
from tfmoe.gating.routing import Groups, Routing
from tfmoe.gating.softmax import Softmax
from tfmoe.gating.switch import Switch
from tfmoe.gating.top_k import TopK

GATES = {**FLAT_GATES, "hierarchical": Hierarchical}

__all__ = [
    "GATES",
    "Batchwise",
    "BiasBalanced",
    "ExpertChoice",
    "ExpertThreshold",
    "GShard",
    "Gate",
    "Groups",
    "Hash",
    "Hierarchical",
    "LearnedGate",
    "LimitedGate",
    "MicroStep",
    "NoisyTopK",
    "QuantileBalanced",
    "Routing",
    "Softmax",
    "Switch",
    "TopK",
    "get",
]


def get(identifier: Gate | str | dict) -> Gate:
    """Resolves a gate argument.

    Args:
        identifier: a `Gate`; a name in `GATES`, for that gate with its defaults; a dictionary of a
            name and the gate's arguments, such as `{"name": "noisy_top_k", "k": 2}`; or the result
            of `keras.saving.serialize_keras_object` for a gate.

    Returns:
        A `Gate`.

    Raises:
        ValueError: the identifier is none of these.

    Example:
        >>> get({"name": "noisy_top_k", "k": 2}).k
        2
    """
    return gate_of("gate", identifier, GATES)
