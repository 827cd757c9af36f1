"""A small model and three sentence pairs, shared by the tests of the translation model."""

import keras
import numpy as np

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import AttentionLSTM, MoE, ProjectedLSTM
from tfmoe.models import TranslationModel, residual_blocks

V, D = 13, 6
# Sources of 3, 1 and 4 subwords; targets of 3, 2 and 1 subwords and an end symbol. Id 0 is both
# padding (inputs) and </s> (targets), 1 is <s>.
SOURCE = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [7, 8, 9, 10]], np.int32)
TARGET = np.array([[1, 3, 4, 5], [1, 6, 12, 0], [1, 7, 0, 0]], np.int32)
TARGETS = np.array([[3, 4, 5, 0], [6, 12, 0, 0], [7, 0, 0, 0]], np.int32)
REAL = TARGET != 0
GATES = {
    "batchwise": lambda: Batchwise(k=2),
    "noisy_top_k": lambda: NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1),
}


def make_model(gate="batchwise", groups=None, kind="multiplicative", seed=1, **arguments):
    keras.utils.set_random_seed(seed)

    def lstm(name, units=D, projection=None):
        return ProjectedLSTM(units, projection, return_sequences=True, name=name)

    def moe(name):
        return MoE(4, 8, gate=GATES[gate](), groups=groups, metrics="all", name=name)

    dropout = arguments.get("dropout", 0.0)
    encoder = [lstm("encoder_1"), moe("encoder_moe"), lstm("encoder_2", 9, D)]
    decoder = [AttentionLSTM(8, D, attention=kind, name="decoder_1"), moe("decoder_moe"), lstm("d")]
    return TranslationModel(
        V,
        D,
        residual_blocks(encoder, dropout, seed),
        residual_blocks(decoder, dropout, seed + 3),
        seed=seed,
        **arguments,
    )


def randomised(**arguments):
    """A model with large random weights, which make any unwanted dependency visible."""
    model = make_model(**arguments)
    model.compile("adam")
    model.build((None, None))
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        values = rng.standard_normal(weight.shape)
        if weight.name == "log_thresholds":
            values = rng.uniform(-0.3, 0.1, weight.shape) - np.log(weight.shape[-1])
        elif "expert" not in weight.path and "gate_kernel" not in weight.path:
            values *= 0.5
        weight.assign(values)
    return model


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def evaluate(model, source=SOURCE, target=TARGET, targets=TARGETS, batch_size=32):
    logs = model.evaluate(
        (source, target), targets, batch_size=batch_size, verbose=0, return_dict=True
    )
    np.testing.assert_allclose(np.exp(logs["loss"]), logs["perplexity"], rtol=1e-6)
    return logs


def set_known_probabilities(model):
    """Sets the softmax weights to a known distribution, the same at all positions."""
    model.softmax.kernel.assign(np.zeros([V, D]))
    bias = np.full(V, -np.inf)
    bias[[0, 3, 4, 5, 6, 7, 12]] = np.log([1 / 2, 1 / 8, 1 / 16, 1 / 16, 1 / 8, 1 / 16, 1 / 16])
    model.softmax.bias.assign(bias)
