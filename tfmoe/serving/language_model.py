"""A language model as functions from strings to strings and numbers, for export.

Axes: B sentences, S longest sentence with its end, T tokens of all sentences, L most words to
generate, N best words, K experts of a token, D model, V vocabulary.
"""

from collections.abc import Callable

import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings
from tfmoe.models import LanguageModel
from tfmoe.models.word_predictor import END
from tfmoe.ops.arguments import positive
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.generation import MAX_GENERATED_WORDS, Generator
from tfmoe.serving.language_model_ids import LanguageModelOnIds
from tfmoe.serving.sentences import Sentences
from tfmoe.serving.signatures import (
    Signature,
    checked,
    graph_function,
    padded,
    padded_routings,
    per_sentence,
)


class ServingLanguageModel:
    """Scores, continues and routes sentences given as strings.

    A sentence longer than `max_length` continues in a new row, whose context starts with the last
    word of the previous row. The model is trained and evaluated in the same way, and memory grows
    linearly with the sentence length. Sentences of any length are accepted, and none is truncated.
    Results do not depend on the other sentences of a batch.

    An empty sentence has no words: its end is predicted from `<S>`. Invalid UTF-8 is an unknown
    word.

    Args:
        model: a built `LanguageModel`. Its mixtures must not have an
            `evaluation_capacity_factor`.
        weights: the model's `FrozenWeights`.
        split: function from `[B]` strings to ragged `[B, words]`.
        table: lookup table from words to int32 ids.
        words: list of V strings, by id, starting with `</S>`, `<S>` and `<UNK>`.
        max_length: number of predictions per row.
        top: N, number of words that `next_token` returns.

    Raises:
        ValueError: if an integer is below 1, or `words` does not have V entries.
    """

    def __init__(
        self,
        model: LanguageModel,
        weights: FrozenWeights,
        split: Callable[[tf.Tensor], tf.RaggedTensor],
        table: tf.lookup.StaticHashTable,
        words: list[str],
        max_length: int,
        top: int = 10,
    ):
        if len(words) != model.vocabulary_size:
            raise ValueError(
                f"words must have {model.vocabulary_size} entries, the model's vocabulary size, "
                f"got {len(words)}"
            )
        self.model = model
        self.weights = weights
        self.sentences = Sentences(split, table, words, max_length)
        self.generator = Generator(model, self.sentences.max_length)
        self.top = min(positive("top", top), model.vocabulary_size)
        # The functions on strings and those on ids call these, which are traced once.
        ids = tf.RaggedTensorSpec([None, None], tf.int32)
        controls = [tf.TensorSpec([None], dtype) for dtype in (tf.int32, tf.float32, tf.int32)]
        self.log_probabilities = graph_function(self._log_probabilities, ids)
        self.best_next = graph_function(self._best_next, ids)
        self.continued = graph_function(self._continued, ids, *controls)

    def signatures(self) -> dict[str, Signature]:
        """The exported functions, `{name: Signature}`. Only models with a mixture have `route`."""
        sentences = [tf.TensorSpec([None], tf.string, "sentences")]
        generation_inputs = [
            tf.TensorSpec([None], tf.string, "prefix"),
            tf.TensorSpec([None], tf.int32, "length"),
            tf.TensorSpec([None], tf.float32, "temperature"),
            tf.TensorSpec([None], tf.int32, "seed"),
        ]
        signatures = {
            "score": Signature(
                self.score,
                sentences,
                "log-probabilities in nats of each sentence and of each of its words, its end "
                "included",
            ),
            "next_token": Signature(
                self.next_token,
                generation_inputs[:1],
                "the most probable next words after a prefix, and their probabilities",
            ),
            "generate": Signature(
                self.generate,
                generation_inputs,
                "continues a prefix by up to `length` words; temperature 0 selects the most "
                "probable words; length, temperature and seed: one value, or one for each prefix",
            ),
            "route": Signature(
                self.route,
                sentences,
                "the experts of each word in each mixture, and their gate values",
            ),
        }
        if not mixtures_of(self.model):
            del signatures["route"]
        return {**signatures, **LanguageModelOnIds(self).signatures()}

    def score(self, sentences: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the log-probabilities of sentences.

        Args:
            sentences: `[B]` strings.

        Returns:
            A dictionary:

            - `log_probability`: `[B]` float32, in nats.
            - `token_log_probabilities`: `[B, S]` float32, 0 for padding.
            - `tokens`: `[B, S]` strings, the words in the vocabulary, `<UNK>` for unknown words,
              and `</S>` at the end; padded with "".
            - `token_count`: `[B]` int32, number of predictions: words and end.
        """
        targets, values = self.log_probabilities(self.sentences.ids(sentences))
        tokens = self.sentences.to_words(targets.flat_values)
        return {
            "log_probability": tf.reduce_sum(values, axis=1),
            "token_log_probabilities": values.to_tensor(),
            "tokens": padded(tokens, targets.row_lengths(), ""),
            "token_count": tf.cast(targets.row_lengths(), tf.int32),
        }

    def next_token(self, prefix: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts the next word.

        Args:
            prefix: `[B]` strings; "" for the first word of a sentence.

        Returns:
            A dictionary:

            - `words`: `[B, N]` strings, most probable first. `</S>` is the end of the sentence,
              `<UNK>` any word outside the vocabulary.
            - `probabilities`: `[B, N]` float32.
        """
        probabilities, ids = self.best_next(self.sentences.ids(prefix))
        return {"words": self.sentences.to_words(ids), "probabilities": probabilities}

    def generate(
        self, prefix: tf.Tensor, length: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Continues sentences word by word. Block states are kept, so every word has the same cost.

        `<S>` and `<UNK>` are never generated. The same prefix, temperature and seed give the same
        text in any batch, and a larger `length` only extends it. The inputs are vectors, because
        TensorFlow Serving joins requests along axis 0.

        Args:
            prefix: `[B]` strings.
            length: `[1]` or `[B]` int32, maximum number of words to generate, up to 10,000. L is
                the largest of the batch.
            temperature: `[1]` or `[B]` float32. Words are sampled from `softmax(logits /
                temperature)`; 0 selects the most probable word.
            seed: `[1]` or `[B]` int32.

        Returns:
            A dictionary:

            - `text`: `[B]` strings, the new words, separated by spaces.
            - `words`: `[B, L]` strings, padded with "".
            - `word_count`: `[B]` int32.
            - `ended`: `[B]` bool, whether the end of the sentence was generated.

        Raises:
            tf.errors.InvalidArgumentError: if a `length` or `temperature` is out of range, or an
                input has another size.
        """
        ids = self.sentences.ids(prefix)
        new_ids, counts, ended = self.continued(ids, length, temperature, seed)
        words = tf.where(tf.equal(new_ids, END), "", self.sentences.to_words(new_ids))
        return {
            "text": tf.strings.reduce_join(
                tf.RaggedTensor.from_tensor(words, counts), axis=1, separator=" "
            ),
            "words": words,
            "word_count": counts,
            "ended": ended,
        }

    def route(self, sentences: tf.Tensor) -> dict[str, tf.Tensor]:
        """Returns the experts of each word and their gate values.

        Args:
            sentences: `[B]` strings.

        Returns:
            A dictionary:

            - `tokens`: `[B, S]` strings, the model's input words, starting with `<S>`, padded
              with "".
            - `NAME_experts` for each mixture NAME: `[B, S, K]` int32, largest gate value first, -1
              for none.
            - `NAME_gates` for each mixture NAME: `[B, S, K]` float32, the gate values of these
              experts, 0 for none.
        """
        with self.weights.scope():
            rows, inputs = self.sentences.rows(self.sentences.ids(sentences))
            with recording_routings() as recordings:
                self.model(rows)
            lengths = inputs.row_lengths()
            words = self.sentences.to_words(inputs.flat_values)
            routings = padded_routings(self.model, recordings, lengths)
        return {"tokens": padded(words, lengths, ""), **routings}

    def _log_probabilities(self, ids: tf.RaggedTensor) -> tuple[tf.RaggedTensor, tf.RaggedTensor]:
        """Scores sentences of ids.

        Args:
            ids: ragged `[B, words]` int32.

        Returns:
            The words and the end of each sentence, ragged `[B, words + 1]` int32, and their
            log-probabilities, float32.
        """
        with self.weights.scope():
            targets = tf.concat([ids, tf.fill([ids.nrows(), 1], END)], axis=1)
            features, _ = self._features(ids)
            values = self.model.softmax.negative_log_likelihood(features, targets.flat_values)
        return targets, targets.with_flat_values(-values)

    def _best_next(self, ids: tf.RaggedTensor) -> tuple[tf.Tensor, tf.Tensor]:
        """The probabilities `[B, N]` and the ids `[B, N]` of the most probable next words of
        ragged `[B, words]` ids.
        """
        with self.weights.scope():
            features, ends = self._features(ids)
            logits = self.model.word_logits(tf.gather(features, ends))
        return tf.math.top_k(tf.nn.softmax(logits), self.top)

    def _continued(
        self, ids: tf.RaggedTensor, length: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Continues sentences of ids. Arguments: see `generate`.

        Args:
            ids: ragged `[B, words]` int32.
            length, temperature, seed: `[1]` or `[B]`.

        Returns:
            `[B, L]` int32 ids, padded with 0; `[B]` int32, their number; `[B]` bool, whether the
            end was generated.
        """
        size = tf.cast(ids.nrows(), tf.int32)
        length, temperature, seed = (
            per_sentence(values, size, name)
            for name, values in (("length", length), ("temperature", temperature), ("seed", seed))
        )
        length = checked(
            length,
            (length >= 0) & (length <= MAX_GENERATED_WORDS),
            f"length must be from 0 to {MAX_GENERATED_WORDS}, got",
        )
        temperature = checked(
            temperature,
            (temperature >= 0) & tf.math.is_finite(temperature),
            "temperature must be finite and at least 0, got",
        )
        with self.weights.scope():
            return self.generator.write(ids, length, temperature, seed)

    def _features(self, ids):
        """The features from which the next words are predicted.

        Returns:
            `[T, D]` features of all tokens, and `[B]` int64, the index of each sentence's last
            token.
        """
        rows, inputs = self.sentences.rows(ids)
        features = tf.gather_nd(self.model(rows), tf.where(tf.not_equal(rows, END)))
        return features, tf.cumsum(inputs.row_lengths()) - 1
