"""Optimizers and learning-rate schedules."""

from tfmoe.optimizers.schedules import WarmupInverseSqrt

__all__ = ["WarmupInverseSqrt"]
