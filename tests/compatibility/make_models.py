"""Writes the models that later versions must still load; `make_files.py` runs it."""

import json

import keras
import numpy as np

from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import AttentionLSTM, MoE, ProjectedLSTM
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks
from tfmoe.optimizers import FactoredAdam

NOISY = {"name": "noisy_top_k", "k": 2, "importance_weight": 0.1, "load_weight": 0.2}
CASES = {
    "softmax": {
        "gate": {"name": "softmax", "importance_weight": 0.1},
        "depth": 2,
        "use_bias": True,
        "activation": "tanh",
    },
    "softmax_groups": {"gate": {"name": "softmax"}, "groups": 2, "recompute": True},
    "noisy_top_k": {
        "gate": {**NOISY, "noise_floor": 0.01, "seed": 3},
        "use_bias": True,
        "capacity_factor": 1.0,
    },
    "noisy_top_k_groups": {
        "num_experts": 9,
        "gate": NOISY,
        "groups": 3,
        "depth": 2,
        "recompute": True,
        "capacity_factor": 1.25,
    },
    "noisy_top_k_mixed_bfloat16": {
        "gate": {"name": "noisy_top_k", "k": 2, "noise": False, "importance_weight": 0.1},
        "use_bias": True,
        "dtype": "mixed_bfloat16",
    },
    "switch": {
        "gate": {"name": "switch", "balance_weight": 0.1},
        "capacity_factor": 1.25,
        "kernel_initializer": "he_normal",
    },
    "batchwise": {
        "gate": {"name": "batchwise", "k": 2, "importance_weight": 0.1},
        "depth": 2,
        "use_bias": True,
    },
    "batchwise_groups": {
        "num_experts": 6,
        "gate": {"name": "batchwise", "k": 2},
        "groups": 2,
        "recompute": True,
        "activation": "gelu",
    },
    "hierarchical": {
        "gate": {
            "name": "hierarchical",
            "groups": 2,
            "primary": {"name": "noisy_top_k", "k": 1, "load_weight": 0.2},
            "secondary": {"name": "softmax"},
        },
        "use_bias": True,
        "capacity_factor": 2.0,
    },
    "hierarchical_softmax_first": {
        "num_experts": 6,
        "gate": {
            "name": "hierarchical",
            "groups": 2,
            "primary": {"name": "softmax"},
            "secondary": {"name": "noisy_top_k", "k": 2, "noise": False},
            "importance_weight": 0.1,
        },
    },
}
MASKED = {"switch", "noisy_top_k_groups", "batchwise"}
V, D = 13, 6  # vocabulary and width of the models; id 0 is padding and the end
TOKENS = np.array([[1, 3, 4, 5], [1, 6, 0, 0], [1, 12, 7, 0]], np.int32)
SOURCE = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [7, 8, 9, 10]], np.int32)
TARGETS = np.array([[3, 4, 5, 0], [6, 0, 0, 0], [12, 7, 0, 0]], np.int32)


def make_layers(folder):
    """Writes a small model around one mixture for each of `CASES`."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((24, 3, 5)).astype("float32")
    y = np.sin(x[..., :2])
    cases = {}
    for name, arguments in CASES.items():
        arguments = {"num_experts": 4, "hidden_units": 6, "name": "moe", **arguments}
        cases[name] = {"masked": name in MASKED, "moe": arguments}
        inputs = np.where(rng.random((24, 3, 1)) < 0.3, 0, x) if name in MASKED else x
        keras.utils.set_random_seed(3)
        model = layer_model(**cases[name])
        model.compile(keras.optimizers.SGD(0.5, momentum=0.9), "mse")
        model.fit(inputs, y, batch_size=12, epochs=1, verbose=0)
        model.save_weights(folder / f"{name}.weights.h5")
        outputs = model.predict(inputs, batch_size=8, verbose=0)  # a capacity is that of a batch
        record(folder / name, model, inputs=inputs, outputs=outputs)
    (folder / "cases.json").write_text(json.dumps(cases, indent=1) + "\n")


def layer_model(masked, moe):
    """A functional model: a mixture and a dense layer, the mixture with a mask or without."""
    inputs = keras.Input([None, 5])
    hidden = keras.layers.Masking()(inputs) if masked else inputs
    hidden = MoE(**moe)(hidden)
    return keras.Model(inputs, keras.layers.Dense(2, name="out", dtype="float32")(hidden))


def record(path, model, **values):
    """Writes a model to `PATH.keras`; and to `PATH.npz` the values given and those of all weights
    and of the optimizer's variables: `weights/NAME` and `optimizer/NAME`, each by the path that it
    has in the loaded model.
    """
    model.save(f"{path}.keras")
    loaded = keras.saving.load_model(f"{path}.keras")
    for group, of_model in (("weights", lambda m: m.weights), ("optimizer", optimizer_variables)):
        for variable, again in zip(of_model(model), of_model(loaded), strict=True):
            values[f"{group}/{again.path}"] = variable.numpy()
    np.savez_compressed(f"{path}.npz", **values)


def optimizer_variables(model):
    return model.optimizer.variables


def make_models(folder):
    """Writes a language model and a translation model."""
    folder.mkdir()
    keras.utils.set_random_seed(1)
    gate = NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1)
    blocks = [lstm("lstm_1"), MoE(4, 8, gate=gate, name="moe"), lstm("lstm_2", 9, D)]
    model = LanguageModel(
        V, D, residual_blocks(blocks, 0.1, 1), dropout=0.1, num_sampled=5, seed=1, name="language"
    )
    train(model, TOKENS, FactoredAdam(0.1))
    features = model(TOKENS)
    record(
        folder / "language",
        model,
        tokens=TOKENS,
        targets=TARGETS,
        features=features.numpy(),
        logits=model.word_logits(features).numpy(),
        perplexity=perplexity(model, TOKENS),
    )

    keras.utils.set_random_seed(2)
    encoder = [lstm("encoder_1"), MoE(4, 8, gate=Batchwise(k=2), name="encoder_moe")]
    decoder_moe = MoE(6, 8, gate=Batchwise(k=2), groups=2, name="decoder_moe")
    decoder = [AttentionLSTM(8, D, name="decoder_1"), decoder_moe, lstm("decoder_2")]
    blocks = residual_blocks(encoder, 0.1, 2), residual_blocks(decoder, 0.1, 5)
    model = TranslationModel(V, D, *blocks, dropout=0.1, seed=2, name="translation")
    train(model, (SOURCE, TOKENS), keras.optimizers.Adam(0.1))
    features = model((SOURCE, TOKENS))
    found = model.translate(SOURCE, beam_size=3, max_length=6)
    record(
        folder / "translation",
        model,
        source=SOURCE,
        target=TOKENS,
        targets=TARGETS,
        features=features.numpy(),
        logits=model.word_logits(features).numpy(),
        perplexity=perplexity(model, (SOURCE, TOKENS)),
        translated=found.ids.numpy(),
        scores=found.scores.numpy(),
    )


def lstm(name, units=D, projection=None):
    """An LSTM block of width D."""
    return ProjectedLSTM(units, projection, return_sequences=True, name=name)


def train(model, inputs, optimizer):
    """Two steps on all three sentences."""
    model.compile(optimizer)
    model.fit(inputs, TARGETS, epochs=2, verbose=0)


def perplexity(model, inputs):
    return model.evaluate(inputs, TARGETS, verbose=0, return_dict=True)["perplexity"]
