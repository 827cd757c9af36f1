"""A language model as functions from strings to strings and numbers, for export.

Axes: B sentences, S longest sentence with its end, R rows that sentences are cut into, T tokens of
all sentences, L words to write, N best words, K experts of a token, D model, V vocabulary.
"""

import tensorflow as tf

from tfmoe.layers import MoE
from tfmoe.models.blocks import step_through, zero_states
from tfmoe.models.word_predictor import END, START, UNKNOWN
from tfmoe.ops.arguments import positive
from tfmoe.serving.signatures import (
    Signature,
    at_least_one,
    one_of_each,
    padded,
    padded_routings,
)

LONGEST_TEXT = 10_000  # words that `generate` writes at most


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
        self.split = split
        self.table = table
        self.words = tf.constant(words)
        self.max_length = positive("max_length", max_length)
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
        if not any(isinstance(block.layer, MoE) for block in self.model.blocks):
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
            ids = self._ids(sentences)
            end = tf.fill([ids.nrows(), 1], END)
            targets = tf.concat([ids, end], axis=1)
            features, _ = self._features(ids)
            values = self.model.softmax.negative_log_likelihood(features, targets.flat_values)
        values = targets.with_flat_values(-values)
        return {
            "log_probability": tf.reduce_sum(values, axis=1),
            "token_log_probabilities": values.to_tensor(),
            "tokens": padded(self._words(targets.flat_values), targets.row_lengths(), ""),
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
            features, ends = self._features(self._ids(prefix))
            logits = self.model.word_logits(tf.gather(features, ends))
        probabilities, ids = tf.math.top_k(tf.nn.softmax(logits), self.top)
        return {"words": self._words(ids), "probabilities": probabilities}

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
            ids = self._ids(prefix)
            seed = one_of_each(seed, tf.cast(ids.nrows(), tf.int32), "seed")
            found, counts, ended = self._write(ids, length, temperature, seed)
        words = tf.where(tf.sequence_mask(counts, length), self._words(found), "")
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
        outputs = {}
        with self.weights.scope():
            rows, inputs = self._rows(self._ids(sentences))
            lengths = inputs.row_lengths()
            outputs["tokens"] = padded(self._words(inputs.flat_values), lengths, "")
            mask = tf.not_equal(rows, END)
            features = self.model.features_by_block(rows)
            outputs |= padded_routings(self.model.blocks, features, mask, lengths)
        return outputs

    def _ids(self, sentences):
        """Ragged `[B, words]` int32."""
        words = self.split(sentences)
        return words.with_flat_values(self.table.lookup(words.flat_values))

    def _words(self, ids):
        return tf.gather(self.words, ids)

    def _rows(self, ids):
        """Cuts sentences into rows.

        Args:
            ids: ragged `[B, words]`.

        Returns:
            `[R, steps]` int32, padded with 0, in the order of the sentences; and ragged
            `[B, words + 1]`, what the model reads of each sentence. Both have the same T tokens in
            the same order.
        """
        inputs = tf.concat([tf.fill([ids.nrows(), 1], START), ids], axis=1)
        lengths = inputs.row_lengths()
        number = -(-lengths // self.max_length)
        first = tf.ragged.range(number).flat_values * self.max_length
        steps = tf.minimum(tf.repeat(lengths, number) - first, self.max_length)
        return at_least_one(padded(inputs.flat_values, steps, 0)), inputs

    def _features(self, ids):
        """Features that the next words are predicted from.

        Returns:
            `[T, D]` for all tokens, and `[B]` int64, the place of each sentence's last one.
        """
        rows, inputs = self._rows(ids)
        features = tf.gather_nd(self.model(rows), tf.where(tf.not_equal(rows, END)))
        return features, tf.cumsum(inputs.row_lengths()) - 1

    def _step(self, tokens, positions, states):
        """Reads a word of each sentence.

        Args:
            tokens: `[B]` int32.
            positions: `[B]` int32, words of the sentence before them, `<S>` counted.
            states: of the LSTMs.

        Returns:
            `[B, D]` features and the new states.
        """
        begins = tf.equal(positions % self.max_length, 0)[:, None]
        states = tf.nest.map_structure(lambda x: tf.where(begins, tf.zeros_like(x), x), states)
        return step_through(self.model.blocks, self.model.embedding(tokens), states)

    def _read(self, tokens, lengths):
        """Reads prefixes.

        Args:
            tokens: `[B, P]` int32, padded.
            lengths: `[B]` int32.

        Returns:
            `[B, D]` features and the states after the last word of each.
        """
        num_rows = tf.shape(tokens)[0]

        def body(t, features, states):
            found = self._step(tokens[:, t], tf.fill([num_rows], t), states)
            read = (t < lengths)[:, None]
            features, states = tf.nest.map_structure(
                lambda new, old: tf.ensure_shape(tf.where(read, new, old), old.shape),
                found,
                (features, states),
            )
            return t + 1, features, states

        features = tf.zeros([num_rows, self.model.d_model], self.model.compute_dtype)
        _, features, states = tf.while_loop(
            lambda t, *_: t < tf.shape(tokens)[1],
            body,
            (tf.constant(0), features, zero_states(self.model.blocks, num_rows)),
        )
        return features, states

    def _write(self, ids, length, temperature, seed):
        """Continues prefixes.

        Returns:
            `[B, L]` ids, `[B]` how many of them are words, `[B]` whether the sentence ended.
        """
        num_rows = tf.cast(ids.nrows(), tf.int32)
        prefix = tf.concat([tf.fill([ids.nrows(), 1], START), ids], axis=1)
        lengths = tf.cast(prefix.row_lengths(), tf.int32)
        features, states = self._read(prefix.to_tensor(), lengths)
        places = tf.range(length)
        # One row of draws for each sentence, by its own seed: nothing depends on the batch.
        draws = tf.map_fn(
            lambda s: tf.random.stateless_uniform([LONGEST_TEXT], [s, 0], alg="philox"),
            seed,
            fn_output_signature=tf.TensorSpec([LONGEST_TEXT], tf.float32),
        )

        def body(t, features, states, written, ended):
            word = draw_word(self._logits(features), temperature, draws[:, t])
            word = tf.where(ended, END, word)
            ended |= tf.equal(word, END)
            written = tf.where(places == t, word[:, None], written)
            features, states = tf.nest.map_structure(
                lambda new, old: tf.ensure_shape(new, old.shape),
                self._step(word, lengths + t, states),
                (features, states),
            )
            return t + 1, features, states, written, ended

        _, _, _, written, ended = tf.while_loop(
            lambda t, *others: (t < length) & ~tf.reduce_all(others[-1]),
            body,
            (
                tf.constant(0),
                features,
                states,
                tf.zeros([num_rows, length], tf.int32),
                tf.zeros([num_rows], tf.bool),
            ),
        )
        counts = tf.reduce_sum(tf.cast(tf.not_equal(written, END), tf.int32), axis=1)
        return written, counts, ended

    def _logits(self, features):
        """`[B, V]`, `-inf` for what is not written."""
        ids = tf.range(self.model.vocabulary_size)
        never = tf.equal(ids, START) | tf.equal(ids, UNKNOWN)
        return tf.where(never, float("-inf"), self.model.word_logits(features))


def draw_word(logits, temperature, draws):
    """Draws from `softmax(logits / temperature)`, by the inverse of its distribution function.

    Args:
        logits: `[B, V]` float32, `-inf` for words that cannot be.
        temperature: scalar; 0 takes the largest logit, the first among equals.
        draws: `[B]` float32 in [0, 1).

    Returns:
        `[B]` int32.
    """
    best = tf.argmax(logits, axis=1, output_type=tf.int32)
    # In float64: the sum over a large vocabulary would lose small probabilities.
    logits = tf.cast(logits - tf.reduce_max(logits, axis=1, keepdims=True), tf.float64)
    divisor = tf.cast(tf.where(temperature > 0, temperature, 1.0), tf.float64)
    total = tf.cumsum(tf.exp(logits / divisor), axis=1)
    point = tf.cast(draws, tf.float64)[:, None] * total[:, -1:]
    drawn = tf.searchsorted(total, point, side="right")[:, 0]
    return tf.where(temperature > 0, drawn, best)
