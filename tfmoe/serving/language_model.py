"""A language model as functions from strings to strings and numbers, for export.

Axes: B sentences, S longest sentence with its end, T tokens of all sentences, L words to write, N
best words, K experts of a token, D model, V vocabulary.
"""

import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings
from tfmoe.models.word_predictor import END
from tfmoe.ops.arguments import positive
from tfmoe.serving.generation import LONGEST_TEXT, Generator
from tfmoe.serving.sentences import Sentences
from tfmoe.serving.signatures import Signature, one_of_each, padded, padded_routings


class ServingLanguageModel:
    """Scores, continues and routes sentences given as strings.

    A sentence longer than `max_length` goes on in a new row, in which the model knows only the last
    word of the one before: so it was trained, so `evaluate` measures it, and so memory grows with
    the words and not with their square. No sentence is too long, and none is cut off. Nothing
    depends on what else is in a batch.

    An empty sentence is that of no word: its end is predicted from `<S>`. Bytes that are not UTF-8
    are unknown words.

    Args:
        model: a built `LanguageModel`. Its mixtures must not have an
            `evaluation_capacity_factor`.
        weights: its `FrozenWeights`.
        split: function of `[B]` strings to ragged `[B, words]`.
        table: lookup table from words to int32 ids.
        words: list of V strings, by id, `</S>`, `<S>` and `<UNK>` first.
        max_length: predictions of a row.
        top: N.

    Raises:
        ValueError: if a number is under 1, or the words are not those of the model.
    """

    def __init__(self, model, weights, split, table, words, max_length, top=10):
        if len(words) != model.vocabulary_size:
            raise ValueError(
                f"words must be the {model.vocabulary_size} of the model, got {len(words)}"
            )
        self.model = model
        self.weights = weights
        self.sentences = Sentences(split, table, words, max_length)
        self.generator = Generator(model, self.sentences.max_length)
        self.top = min(positive("top", top), model.vocabulary_size)

    def signatures(self):
        """`{name: Signature}`; `route` only if the model has a mixture."""
        sentences = [tf.TensorSpec([None], tf.string, "sentences")]
        writing = [
            tf.TensorSpec([None], tf.string, "prefix"),
            tf.TensorSpec([], tf.int32, "length"),
            tf.TensorSpec([], tf.float32, "temperature"),
            tf.TensorSpec([None], tf.int32, "seed"),
        ]
        signatures = {
            "score": Signature(
                self.score,
                sentences,
                "log-probability of each sentence and of each of its words, in nats, its end "
                "included",
            ),
            "next_token": Signature(
                self.next_token,
                writing[:1],
                "the most probable next words after a prefix, and their probabilities",
            ),
            "generate": Signature(
                self.generate,
                writing,
                "continues a prefix by up to `length` words; temperature 0 takes the most probable "
                "word; seed: one, or one for each prefix",
            ),
            "route": Signature(
                self.route,
                sentences,
                "the experts of each word in each mixture, and their gate values",
            ),
        }
        if not mixtures_of(self.model):
            del signatures["route"]
        return signatures

    def score(self, sentences):
        """Scores sentences.

        Args:
            sentences: `[B]` strings.

        Returns:
            Dictionary: `log_probability` `[B]` float32, in nats; `token_log_probabilities` `[B, S]`
            float32, 0 for padding; `tokens` `[B, S]` strings, the words as the model sees them,
            `<UNK>` for unknown ones and `</S>` at the end, padded with ""; `token_count` `[B]`
            int32, predictions: the words and the end.
        """
        with self.weights.scope():
            ids = self.sentences.ids(sentences)
            end = tf.fill([ids.nrows(), 1], END)
            targets = tf.concat([ids, end], axis=1)
            features, _ = self._features(ids)
            values = self.model.softmax.negative_log_likelihood(features, targets.flat_values)
        values = targets.with_flat_values(-values)
        tokens = self.sentences.spelled(targets.flat_values)
        return {
            "log_probability": tf.reduce_sum(values, axis=1),
            "token_log_probabilities": values.to_tensor(),
            "tokens": padded(tokens, targets.row_lengths(), ""),
            "token_count": tf.cast(targets.row_lengths(), tf.int32),
        }

    def next_token(self, prefix):
        """Predicts the next word.

        Args:
            prefix: `[B]` strings; "" asks for the first word of a sentence.

        Returns:
            Dictionary: `words` `[B, N]` strings, the most probable first (`</S>` is the end of the
            sentence, `<UNK>` any word out of the vocabulary), and `probabilities` `[B, N]` float32.
        """
        with self.weights.scope():
            features, ends = self._features(self.sentences.ids(prefix))
            logits = self.model.word_logits(tf.gather(features, ends))
        probabilities, ids = tf.math.top_k(tf.nn.softmax(logits), self.top)
        return {"words": self.sentences.spelled(ids), "probabilities": probabilities}

    def generate(self, prefix, length, temperature, seed):
        """Continues sentences, a word at a time, each at the same cost: states are kept.

        `<S>` and `<UNK>` are never written; the end of the sentence always can be. The same prefix,
        temperature and seed give the same text, whatever the batch, and a longer `length` only
        more of it.

        Args:
            prefix: `[B]` strings.
            length: scalar int32, the most words to write, up to 10,000.
            temperature: scalar float32: words are drawn by `softmax(logits / temperature)`; 0 takes
                the most probable.
            seed: `[1]` or `[B]` int32.

        Returns:
            Dictionary: `text` `[B]` strings, the new words with spaces between; `words` `[B, L]`
            strings, padded with ""; `word_count` `[B]` int32; `ended` `[B]` bool, whether the
            sentence came to its end.
        """
        checks = [
            tf.debugging.Assert(
                (length >= 0) & (length <= LONGEST_TEXT),
                [f"length must be 0 to {LONGEST_TEXT}; it is", length],
            ),
            tf.debugging.Assert(
                (temperature >= 0) & tf.math.is_finite(temperature),
                ["temperature must be finite and at least 0; it is", temperature],
            ),
        ]
        with tf.control_dependencies(checks):
            length, temperature = tf.identity(length), tf.identity(temperature)
        with self.weights.scope():
            ids = self.sentences.ids(prefix)
            seed = one_of_each(seed, tf.cast(ids.nrows(), tf.int32), "seed")
            found, counts, ended = self.generator.write(ids, length, temperature, seed)
        words = tf.where(tf.sequence_mask(counts, length), self.sentences.spelled(found), "")
        return {
            "text": tf.strings.reduce_join(
                tf.RaggedTensor.from_tensor(words, counts), axis=1, separator=" "
            ),
            "words": words,
            "word_count": counts,
            "ended": ended,
        }

    def route(self, sentences):
        """Says which experts each word goes to.

        Args:
            sentences: `[B]` strings.

        Returns:
            Dictionary: `tokens` `[B, S]` strings, the words that the model reads, `<S>` first,
            padded with ""; for each mixture, by its name, `NAME_experts` `[B, S, K]` int32, -1 for
            none, and `NAME_gates` `[B, S, K]` float32, 0 for none, of each word the largest first.
        """
        with self.weights.scope():
            rows, inputs = self.sentences.rows(self.sentences.ids(sentences))
            with recording_routings() as recordings:
                self.model(rows)
            lengths = inputs.row_lengths()
            words = self.sentences.spelled(inputs.flat_values)
            routings = padded_routings(self.model, recordings, lengths)
        return {"tokens": padded(words, lengths, ""), **routings}

    def _features(self, ids):
        """Features that the next words are predicted from.

        Returns:
            `[T, D]` for all tokens, and `[B]` int64, the place of each sentence's last one.
        """
        rows, inputs = self.sentences.rows(ids)
        features = tf.gather_nd(self.model(rows), tf.where(tf.not_equal(rows, END)))
        return features, tf.cumsum(inputs.row_lengths()) - 1
