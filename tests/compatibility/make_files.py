"""Writes the files that later versions must still load: models, runs and an export.

The folder `files` beside this script was written by it with version 0.1.0 of tfmoe, TensorFlow 2.21
and Keras 3.15; `test_files_of_before.py` loads it with the code of the checkout. Run again, this
script writes files of the version that runs it:

    python tests/compatibility/make_files.py OUT

What it writes:

    layers/cases.json       {case: {"masked", "moe": the arguments of the layer}}
    layers/CASE.keras       a model around one `MoE`, trained for two steps
    layers/CASE.weights.h5  its weights
    layers/CASE.npz         see `record` in make_models.py
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
import tensorflow as tf
from make_models import make_layers, make_models

from tfmoe.cli import main as tfmoe_main

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
    "generate": {"prefix": ["a b", "d"], "length": [5], "temperature": [1.0], "seed": [1, 2]},
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
