"""Keras models of the paper, and the n-gram model of its baseline."""

from tfmoe.models.beam_search import Hypotheses
from tfmoe.models.blocks import residual_blocks
from tfmoe.models.kneser_ney import KneserNey
from tfmoe.models.language_model import LanguageModel
from tfmoe.models.perplexity import Perplexity
from tfmoe.models.translation import TranslationModel

__all__ = [
    "Hypotheses",
    "KneserNey",
    "LanguageModel",
    "Perplexity",
    "TranslationModel",
    "residual_blocks",
]
