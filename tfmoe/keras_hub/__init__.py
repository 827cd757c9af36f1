"""Sparse computation for the mixtures of experts of KerasHub, on KerasHub's own variables.

KerasHub is an optional package: `pip install "tfmoe[keras-hub]"`.
"""

from tfmoe.keras_hub.replace import densify, sparsify
from tfmoe.keras_hub.routing import route
from tfmoe.keras_hub.scope import sparse_models

__all__ = ["densify", "route", "sparse_models", "sparsify"]
