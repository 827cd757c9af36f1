"""Small translation models with random weights, and their exported functions."""

import keras
import numpy as np

from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import AttentionLSTM, MoE, ProjectedLSTM
from tfmoe.models import TranslationModel, residual_blocks
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.saved_model import exported_module
from tfmoe.serving.translation import ServingTranslator
from tfmoe.serving.translator import Translator

D = 8
TEXT = [f"{a} {b}" for a in ("one", "two", "three") for b in ("four", "five", "six")]


def exported(languages, longest_source=20):
    """The translator, the module and the concrete functions of a model, see `exported_module`.

    Args:
        languages: target languages, `[]` for a model with one direction.
        longest_source: in subwords.
    """
    subwords = Subwords.train(TEXT, 40, languages=languages)
    keras.utils.set_random_seed(1)
    encoder = [
        ProjectedLSTM(D, return_sequences=True),
        MoE(4, 6, gate=Batchwise(k=2), name="encoder_moe"),
    ]
    decoder = [AttentionLSTM(D), MoE(4, 6, gate=NoisyTopK(k=2), name="decoder_moe")]
    model = TranslationModel(len(subwords), D, residual_blocks(encoder), residual_blocks(decoder))
    model.build((None, None))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name != "log_thresholds":
            weight.assign(rng.standard_normal(weight.shape) * 0.6)
    ids = {name: subwords.language_id(name) for name in subwords.languages}
    translator = Translator(model, subwords.tokenizer(), ids, beam_size=3, num_best=2)
    weights = FrozenWeights(model)
    pieces = [subwords.piece(index) for index in range(len(subwords))]
    serving = ServingTranslator(translator, weights, pieces, longest_source)
    resources = {"weights": weights.variables, **serving.resources}
    return translator, *exported_module(serving.signatures(), "translate", resources)
