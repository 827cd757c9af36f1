"""Sparse computation for the mixtures of experts of KerasHub, on KerasHub's own variables.

KerasHub is an optional package: `pip install "tfmoe[keras-hub]"`.
"""

from tfmoe.keras_hub.replace import densify, sparsify

__all__ = ["densify", "sparsify"]
