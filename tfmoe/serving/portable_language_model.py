"""A language model as functions on word ids, out of operations that other runtimes know.

Axes: B sentences, S longest sentence, R rows, into which sentences are split, W width of a row,
L predictions of the longest row, D model, V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfmoe.models import LanguageModel
from tfmoe.models.blocks import choose_rows
from tfmoe.models.word_predictor import END, START, UNKNOWN
from tfmoe.ops.arguments import positive
from tfmoe.serving.constant_weights import ConstantWeights
from tfmoe.serving.explicit_states import States, random_sentences, zeros
from tfmoe.serving.signatures import Signature


class PortableLanguageModel:
    """Scores sentences of word ids, and reads them word by word with an explicit state.

    A sentence longer than `max_length` continues in a new row, whose context starts with the last
    word of the previous row, as in training and evaluation. Results do not depend on the other
    sentences of a batch, nor on the width of the padding.

    Args:
        model: a built `LanguageModel` with float32 weights.
        max_length: L, number of predictions per row.

    Raises:
        ValueError: if `max_length` is below 1, or the weights are too large.
    """

    def __init__(self, model: LanguageModel, max_length: int):
        self.model = model
        self.max_length = positive("max_length", max_length)
        self.weights = ConstantWeights(model)
        self.states = States(
            lambda num_rows, length: model.initial_states(num_rows, self.max_length)
        )

    def signatures(self) -> dict[str, Signature]:
        """The functions to export, `{name: Signature}`."""
        return {
            "score": Signature(
                self.score,
                [tf.TensorSpec([None, None], tf.int32, "ids")],
                "log-probabilities in nats of each sentence and of each of its words, its end "
                "included",
            ),
            "step": Signature(
                self.step,
                [
                    tf.TensorSpec([None], tf.int32, "ids"),
                    tf.TensorSpec([None], tf.int32, "positions"),
                    *self.states.inputs,
                ],
                "reads one word of each sentence, from <S> at position 0 on, and predicts the next",
            ),
        }

    def score(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the log-probabilities of sentences.

        Args:
            ids: `[B, S]` int32, the words of sentences, without `<S>` and `</S>`, padded at the
                end with 0.

        Returns:
            A dictionary:

            - `log_probability`: `[B]` float32, in nats.
            - `token_log_probabilities`: `[B, S + 1]` float32, of the words and the end, then 0.
            - `token_count`: `[B]` int32, number of predictions: words and end.
        """
        count = 1 + tf.reduce_sum(tf.cast(tf.not_equal(ids, END), tf.int32), axis=1)
        inputs = tf.pad(ids, [[0, 0], [1, 0]], constant_values=START)
        targets = tf.pad(ids, [[0, 0], [0, 1]], constant_values=END)
        batch, steps = tf.shape(inputs)[0], tf.shape(inputs)[1]
        width = tf.minimum(steps, self.max_length)
        missing = (width - steps % width) % width  # so that rows of this width have all steps
        rows = tf.reshape(tf.pad(inputs, [[0, 0], [0, missing]]), tf.stack([-1, width]))
        with self.weights.scope():
            features = self.model(rows)
            features = tf.reshape(features, tf.stack([batch, -1, self.model.d_model]))
            logits = self.model.word_logits(features[:, :steps])
        values = tf.gather(tf.nn.log_softmax(logits), targets, batch_dims=2)
        values = tf.where(tf.range(steps) < count[:, None], values, 0.0)
        return {
            "log_probability": tf.reduce_sum(values, axis=1),
            "token_log_probabilities": values,
            "token_count": count,
        }

    def step(self, ids: tf.Tensor, positions: tf.Tensor, *states: tf.Tensor) -> dict:
        """Reads one word of each sentence.

        Args:
            ids: `[B]` int32, the word at a position of each sentence: `<S>` at position 0.
            positions: `[B]` int32. At every multiple of `max_length` the row of a state starts
                anew, whatever the given state has in it.
            *states: the states after the word before, in the order of the signature.

        Returns:
            A dictionary: `logits`, `[B, V]` float32, of the next words; and the new states,
            `next_…` for each input.
        """
        starts_row = tf.equal(positions % self.max_length, 0)
        with self.weights.scope():
            initial = self.states.initial(tf.shape(ids)[0])
            old = choose_rows(starts_row, initial, self.states.packed(states))
            features, new = self.model.step(ids, old)
            logits = self.model.word_logits(features)
        return {"logits": logits, **self.states.outputs(new)}

    def facts(self) -> dict:
        """What a client must know besides the signatures, for the manifest."""
        return {"max_length": self.max_length, "never_generated": [START, UNKNOWN]}

    def samples(self, seed: int = 0) -> Iterator[tuple[str, dict]]:
        """Yields inputs to compare files with the model: names of functions, and `{name: array}`.

        Args:
            seed: of random ids.
        """
        rng = np.random.default_rng(seed)
        longest = self.max_length + 2
        yield "score", {"ids": random_sentences(rng, self.model.vocabulary_size, [longest, 0, 1])}
        states = zeros(self.states.inputs, 3, self.max_length)
        for position in range(2):
            ids = rng.integers(END + 1, self.model.vocabulary_size, 3, dtype=np.int32)
            inputs = {"ids": ids, "positions": np.full([3], position, np.int32), **states}
            yield "step", inputs
            outputs = self.step(*map(tf.constant, inputs.values()))
            states = {name: outputs[f"next_{name}"].numpy() for name in states}
