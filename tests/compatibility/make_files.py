"""Writes the files that later versions must still load: models, runs and an export.

The folder `files` beside this script was written by it with version 0.1.0 of tfmoe, TensorFlow 2.21
and Keras 3.15; `test_files_of_before.py` loads it with the code of the checkout. Run again, this
script writes files of the version that runs it:

    python tests/compatibility/make_files.py OUT

What it writes:

    layers/cases.json       {case: {"masked", "moe": the arguments of the layer}}
    layers/CASE.keras       a model around one `MoE`, trained for two steps
    layers/CASE.weights.h5  its weights
    layers/CASE.npz         see `record`
    models/…                likewise, a language model and a translation model, without weights.h5
    corpus/                 the text of the runs, which are to be used from this folder
    runs/language           a finished run of `tfmoe train`
    runs/language_unfinished    the same run, stopped within its third epoch
    runs/translation, runs/translation_unfinished   likewise, stopped within its second epoch
    exported.tar.xz         `tfmoe export` of runs/language: its folder 1
    answers.json            of the export: {signature: {"inputs", "outputs"}}
"""

import contextlib
import json
import os
import pathlib
import shutil
import sys
import tarfile
import tempfile
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import keras
import numpy as np
import tensorflow as tf

from tfmoe.cli import main as tfmoe_main
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

# 16 steps: 4 epochs of 30 rows of 8 positions, 64 in a batch.
LANGUAGE = """\
model:
  name: language_model
  d_model: 4
  dropout: 0.1
  num_sampled: 4
  blocks:
    - {name: lstm, units: 5, projection_units: 4}
    - name: moe
      num_experts: 4
      hidden_units: 4
      gate: {name: noisy_top_k, k: 2, importance_weight: 0.1, load_weight: 0.1}
    - name: moe
      num_experts: 4
      hidden_units: 4
      groups: 2
      gate: {name: softmax, importance_weight: 0.1}
data:
  name: text
  train: train.txt
  valid: valid.txt
  test: test.txt
  vocabulary: {size: 8}
  batch_tokens: 64
  max_length: 8
training:
  epochs: 4
  checkpoint_every_steps: 3
  optimizer: {name: factored_adam, learning_rate: 0.05}
"""
# Nothing is drawn at random but the first weights and the order of the text.
TRANSLATION = """\
model:
  name: translation
  d_model: 6
  encoder:
    - {name: lstm, units: 6}
    - {name: moe, num_experts: 4, hidden_units: 6, gate: {name: batchwise, k: 2}}
  decoder:
    - {name: attention_lstm, units: 6}
    - {name: moe, num_experts: 6, hidden_units: 6, groups: 2, gate: {name: batchwise, k: 2}}
  decoding: {beam_size: 2, batch_sentences: 2}
data:
  name: parallel
  train: train
  valid: valid
  test: test
  source_language: en
  target_language: de
  vocabulary: {size: 40}
  batch_words: 100
  max_length: 20
training:
  epochs: 2
  checkpoint_every_steps: 2
  optimizer:
    name: adam
    learning_rate: 0.01
    global_clip_norm: 5.0
    schedule: {name: warmup_inverse_sqrt, warmup_steps: 3}
"""
CORPUS = {
    "train.txt": "a b c\n" * 12 + "b c d\n" * 8 + "c d e\n" * 6 + "d e rare\n" * 4,
    "valid.txt": "a b c\nb c d\nd e f\n",
    "test.txt": "a b c d\nx a\n\nc y\n",
    "language.yaml": LANGUAGE,
    "train.en": "one two\nthree\nfour one two\ntwo\n" * 6,
    "train.de": "eins zwei\ndrei\nvier eins zwei\nzwei\n" * 6,
    "valid.en": "one three\ntwo\n",
    "valid.de": "eins drei\nzwei\n",
    "test.en": "four\none\ntwo three\n",
    "test.de": "vier\neins\nzwei drei\n",
    "translation.yaml": TRANSLATION,
}
SENTENCES = ["a b c d", "x a", "", "c d e d c b a a b c"]
QUESTIONS = {
    "score": {"sentences": SENTENCES},
    "next_token": {"prefix": SENTENCES},
    "route": {"sentences": SENTENCES},
    "generate": {"prefix": ["a b", "d"], "length": 5, "temperature": 1.0, "seed": [1, 2]},
}


class Stopped(BaseException):
    """Ends training as a kill does: tfmoe handles it nowhere."""


def main(out):
    """Writes everything into the folder `out`, which must not exist."""
    out = pathlib.Path(out).resolve()
    out.mkdir(parents=True)
    make_layers(out / "layers")
    make_models(out / "models")
    make_runs(out / "corpus", out / "runs")
    make_export(out / "runs" / "language", out)


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


def make_runs(corpus, runs):
    """Writes the text and the runs, two of each model: finished, and stopped within an epoch."""
    corpus.mkdir()
    for name, text in CORPUS.items():
        (corpus / name).write_text(text)
    with contextlib.chdir(corpus):
        for name, step in (("language", 11), ("translation", 5)):
            arguments = ["train", f"{name}.yaml", "--run-dir"]
            tfmoe(*arguments, runs / name)
            with stopped_after(step), contextlib.suppress(Stopped):
                tfmoe(*arguments, runs / f"{name}_unfinished")
    for logs in runs.glob("*/logs"):
        shutil.rmtree(logs)


@contextlib.contextmanager
def stopped_after(step):
    """Stops training after a step, where Keras calls its TensorBoard callback (the last one)."""
    original = keras.callbacks.TensorBoard.on_train_batch_end

    def stop(self, batch, logs=None):
        original(self, batch, logs)
        if int(self.model.optimizer.iterations) == step:
            raise Stopped

    with mock.patch.object(keras.callbacks.TensorBoard, "on_train_batch_end", stop):
        yield


def make_export(run, out):
    """Exports a run of a language model, and writes what the export answers."""
    with tempfile.TemporaryDirectory() as folder:
        tfmoe("export", run, folder, "--top", "4")
        exported = pathlib.Path(folder) / "1"
        answers = {
            name: {"inputs": inputs, "outputs": answer(exported, name, inputs)}
            for name, inputs in QUESTIONS.items()
        }
        with tarfile.open(out / "exported.tar.xz", "w:xz") as file:
            file.add(exported, arcname="1", filter=without_owner)
    (out / "answers.json").write_text(json.dumps(answers) + "\n")


def answer(exported, signature, inputs):
    """What a signature of a SavedModel gives, as plain lists."""
    function = tf.saved_model.load(str(exported)).signatures[signature]
    outputs = function(**{key: tf.constant(value) for key, value in inputs.items()})
    outputs = {key: value.numpy() for key, value in outputs.items()}
    return {
        key: (value.astype("U") if value.dtype == object else value).tolist()
        for key, value in outputs.items()
    }


def without_owner(member):
    """A member of an archive, without the name of the user who wrote it."""
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def tfmoe(*arguments):
    """Runs a `tfmoe` command in this process."""
    try:
        tfmoe_main([str(argument) for argument in arguments])
    except SystemExit as end:
        if end.code:
            raise


if __name__ == "__main__":
    main(*sys.argv[1:])
