"""Optimizers and learning-rate schedules."""

from tfmoe.optimizers.factored_adagrad import FactoredAdagrad
from tfmoe.optimizers.factored_adam import FactoredAdam
from tfmoe.optimizers.registry import OPTIMIZERS
from tfmoe.optimizers.schedules import SCHEDULES, WarmupInverseSqrt

__all__ = ["OPTIMIZERS", "SCHEDULES", "FactoredAdagrad", "FactoredAdam", "WarmupInverseSqrt"]
