"""Sparse computation for the mixtures of experts of KerasHub, on KerasHub's own variables.

KerasHub is an optional package: `pip install "tfmoe[keras-hub]"`.
"""

from tfmoe.keras_hub.replace import densify, sparsify
from tfmoe.keras_hub.routing import route

__all__ = ["densify", "route", "sparsify"]
