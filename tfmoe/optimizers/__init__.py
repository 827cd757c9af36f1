"""Optimizers with small slots for experts, and learning rate schedules.

`FactoredAdam` and `FactoredAdagrad` keep two vectors per expert matrix in place of full moments.
`FusedAdam` is Keras' Adam with one operation per variable.
"""

from tfmoe.optimizers.factored_adagrad import FactoredAdagrad
from tfmoe.optimizers.factored_adam import FactoredAdam
from tfmoe.optimizers.fused_adam import FusedAdam
from tfmoe.optimizers.registry import OPTIMIZERS
from tfmoe.optimizers.schedules import SCHEDULES, WarmupInverseSqrt

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "FactoredAdagrad",
    "FactoredAdam",
    "FusedAdam",
    "WarmupInverseSqrt",
]
