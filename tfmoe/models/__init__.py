"""Keras models."""

from tfmoe.models.language_model import LanguageModel, residual_blocks
from tfmoe.models.perplexity import Perplexity

__all__ = ["LanguageModel", "Perplexity", "residual_blocks"]
