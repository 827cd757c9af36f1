"""Beam search as TensorFlow operations, scored as in Wu et al. 2016, section 7 (arXiv:1609.08144).

Modules: `settings` (arguments and their checks), `scoring` (the score of a hypothesis),
`hypotheses` (live and finished hypotheses), `search` (the loop).

Axes of all modules: B sentences, M live hypotheses per sentence (the beam), N = B * M rows,
V vocabulary, L longest target, S source positions, K hypotheses returned per sentence,
C candidates per step.
"""

from tfmoe.models.beam_search.hypotheses import Hypotheses, tile
from tfmoe.models.beam_search.search import beam_search
from tfmoe.models.beam_search.settings import Settings

__all__ = ["Hypotheses", "Settings", "beam_search", "tile"]
