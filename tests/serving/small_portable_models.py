"""Small models with random weights, their functions on ids, and the formats that hold them."""

import json
import os
import subprocess
from pathlib import Path

import keras
import numpy as np
import pytest

from tfmoe.gating import NoisyTopK
from tfmoe.layers import (
    AttentionLSTM,
    CrossAttention,
    FeedForward,
    MoE,
    ProjectedLSTM,
    SelfAttention,
)
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks
from tfmoe.serving.litert_files import load_litert, write_litert
from tfmoe.serving.onnx_files import load_onnx, write_onnx
from tfmoe.serving.portable_language_model import PortableLanguageModel
from tfmoe.serving.portable_translation import PortableTranslationModel
from tfmoe.serving.tfjs_files import load_tfjs, write_tfjs

FORMATS = {
    "onnx": (write_onnx, load_onnx),
    "litert": (write_litert, load_litert),
    "tfjs": (write_tfjs, load_tfjs),
}
PACKAGES = {"onnx": ("onnx", "onnxruntime", "tf2onnx"), "litert": (), "tfjs": ()}
VOCABULARY_SIZE, D, MAX_LENGTH = 13, 8, 4
CLIENTS = Path(__file__).resolve().parents[2] / "docs" / "serving"
NODE_PACKAGES = (
    "@tensorflow/tfjs-core",
    "@tensorflow/tfjs-converter",
    "@tensorflow/tfjs-backend-cpu",
)


def feed_forward(num_experts, name):
    """A mixture, or without experts a dense layer."""
    if num_experts is None:
        return FeedForward(16, activation="gelu")
    return MoE(num_experts, 6, gate=NoisyTopK(k=2), name=name)


def lstm_language_model(num_experts=None):
    first, last = (ProjectedLSTM(12, D, return_sequences=True) for _ in range(2))
    layers = [first, feed_forward(num_experts, "moe"), last]
    return PortableLanguageModel(built(LanguageModel, residual_blocks(layers)), MAX_LENGTH)


def transformer_language_model(num_experts=None):
    layers = [SelfAttention(4, 2), feed_forward(num_experts, "moe"), SelfAttention(1)]
    blocks = residual_blocks(layers, norm="rms", activation=None)
    return PortableLanguageModel(built(LanguageModel, blocks, final_norm="rms"), MAX_LENGTH)


def lstm_translation(num_experts=None):
    encoder = [ProjectedLSTM(D, return_sequences=True), feed_forward(num_experts, "encoder_moe")]
    decoder = [AttentionLSTM(D), feed_forward(num_experts, "decoder_moe")]
    blocks = residual_blocks(encoder), residual_blocks(decoder)
    return PortableTranslationModel(built(TranslationModel, *blocks))


def transformer_translation(num_experts=None):
    encoder = [SelfAttention(2, causal=False), feed_forward(num_experts, "encoder_moe")]
    decoder = [
        SelfAttention(4, 2),
        CrossAttention(2),
        feed_forward(num_experts, "decoder_moe"),
        CrossAttention(2, 1),
    ]
    blocks = (residual_blocks(x, norm="rms", activation=None) for x in (encoder, decoder))
    return PortableTranslationModel(built(TranslationModel, *blocks, final_norm="layer"))


MODELS = {
    "lstm_language_model": lstm_language_model,
    "transformer_language_model": transformer_language_model,
    "lstm_translation": lstm_translation,
    "transformer_translation": transformer_translation,
}


def built(model_class, *blocks, **options):
    """A model with random weights."""
    keras.utils.set_random_seed(1)
    model = model_class(VOCABULARY_SIZE, D, *blocks, **options)
    model.build((None, None))
    rng = np.random.default_rng(3)
    for weight in model.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape) * 0.5)
    return model


def require_packages(format):
    """Skips a test if a package of a format is not installed."""
    for package in PACKAGES[format]:
        pytest.importorskip(package, reason=f"{package} is not installed")


def has_node_packages():
    """Whether node runs and finds the packages of the client."""
    required = ";".join(f"require.resolve('{name}')" for name in NODE_PACKAGES)
    try:
        return subprocess.run(["node", "-e", required], capture_output=True).returncode == 0
    except OSError:
        return False


class InNode:
    """The functions of an export for TensorFlow.js, computed by its CPU back end in node.

    Args:
        folder: of the export.
        names: of its functions.
    """

    def __init__(self, folder, names):
        self.folder = folder
        signatures = dict.fromkeys(names)
        manifest = {"format": "tfjs", "signatures": signatures, "vocabulary": {"file": ""}}
        (folder / "manifest.json").write_text(json.dumps(manifest))

    def results(self, calls):
        """The outputs of calls, a list of pairs of a function's name and `{name: array}`."""
        described = [
            {
                "function": name,
                "inputs": {
                    key: {"dtype": x.dtype.name, "shape": x.shape, "values": x.ravel().tolist()}
                    for key, x in inputs.items()
                },
            }
            for name, inputs in calls
        ]
        (self.folder / "calls.json").write_text(json.dumps(described))
        script = Path(__file__).with_name("run_tfjs.js")
        paths = [script, CLIENTS / "tfjs_client.js", self.folder, self.folder / "calls.json"]
        done = subprocess.run(
            ["node", *map(str, paths)], capture_output=True, text=True, env=os.environ
        )
        assert done.returncode == 0, done.stderr
        return [
            {key: np.array(x["values"]).reshape(x["shape"]) for key, x in outputs.items()}
            for outputs in json.loads(done.stdout.splitlines()[-1])
        ]
