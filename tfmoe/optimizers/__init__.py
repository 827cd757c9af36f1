"""Optimizers and learning-rate schedules."""

from tfmoe.optimizers.factored_adagrad import FactoredAdagrad
from tfmoe.optimizers.factored_adam import FactoredAdam
from tfmoe.optimizers.schedules import WarmupInverseSqrt

__all__ = ["FactoredAdagrad", "FactoredAdam", "WarmupInverseSqrt"]
