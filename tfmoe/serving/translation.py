"""A translation model as functions from strings to strings and numbers, for export.

Axes: B sentences, N best translations, S longest source, T longest translation with its start, K
experts of a token.
"""

import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings
from tfmoe.models.word_predictor import START
from tfmoe.ops.arguments import positive
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.signatures import (
    Signature,
    at_least_one,
    graph_function,
    padded,
    padded_routings,
    per_sentence,
    ragged_ids,
)
from tfmoe.serving.translator import Translator

MAX_SOURCE_LENGTH = 500  # in subwords; a search takes twice as many steps


class ServingTranslator:
    """Translates and routes sentences given as strings.

    Results do not depend on the other sentences of a batch. Sentences are truncated to
    `longest_source` subwords, and the output `truncated` reports it. The translation of an empty
    sentence is empty. Characters without a subword and invalid UTF-8 are unknown subwords.

    Args:
        translator: a `tfmoe.serving.translator.Translator`. The mixtures of its model must not have
            an `evaluation_capacity_factor`.
        weights: the `FrozenWeights` of its model.
        pieces: list of strings, the subwords by id.
        longest_source: maximum source length, in subwords.

    Attributes:
        resources: `{name: resource}` that the exported module must own in addition to the weights.

    Raises:
        ValueError: if `longest_source` is below 1.
    """

    def __init__(
        self,
        translator: Translator,
        weights: FrozenWeights,
        pieces: list[str],
        longest_source: int = MAX_SOURCE_LENGTH,
    ):
        self.translator = translator
        self.model = translator.model
        self.weights = weights
        self.pieces = tf.constant(pieces)
        self.longest_source = positive("longest_source", longest_source)
        # All signatures call it; it is traced once.
        self.search = graph_function(self._search, tf.TensorSpec([None, None], tf.int32))
        self.resources = {"tokenizer": translator.tokenizer}
        if translator.languages:
            names, ids = zip(*translator.languages.items(), strict=True)
            initial = tf.lookup.KeyValueTensorInitializer(
                tf.constant(names), tf.constant(ids, tf.int32)
            )
            self.languages = self.resources["languages"] = tf.lookup.StaticHashTable(initial, -1)

    def signatures(self) -> dict[str, Signature]:
        """The exported functions, `{name: Signature}`. Only models with a mixture have `route`."""
        inputs = [tf.TensorSpec([None], tf.string, "sentences")]
        languages = ""
        if self.translator.languages:
            inputs.append(tf.TensorSpec([None], tf.string, "language"))
            names = ", ".join(self.translator.languages)
            languages = f"; language: one value, or one for each sentence, of {names}"
        signatures = {
            "translate": Signature(
                self.translate, inputs, f"the best translations and their scores{languages}"
            ),
            "translate_ids": Signature(
                self.translate_ids,
                [tf.TensorSpec([None, None], tf.int32, "ids"), *inputs[1:]],
                f"translate, from and to subword ids{languages}",
            ),
            "route": Signature(
                self.route,
                inputs,
                "the experts of each subword of a sentence and of its best translation, and their "
                f"gate values{languages}",
            ),
        }
        if not mixtures_of(self.model):
            del signatures["route"]
        return signatures

    def translate(
        self, sentences: tf.Tensor, language: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Translates by beam search.

        Args:
            sentences: `[B]` strings.
            language: `[1]` or `[B]` strings, the target languages of a multilingual model.

        Returns:
            A dictionary:

            - `translations`: `[B, N]` strings, best first.
            - `scores`: `[B, N]` float32, in descending order, `-inf` for missing translations.
            - `truncated`: `[B]` bool, whether the source was truncated.

        Raises:
            tf.errors.InvalidArgumentError: if a language is unknown.
        """
        source, is_empty, truncated = self._source(sentences, language)
        hypotheses = self.search(source)
        text, scores = self.translator.texts(hypotheses, is_empty)
        return {"translations": text, "scores": scores, "truncated": truncated}

    def translate_ids(
        self, ids: tf.Tensor, language: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Translates subwords by beam search.

        Args:
            ids: `[B, S]` int32, the subwords of sentences, without start, end and language, padded
                at the end with 0.
            language: `[1]` or `[B]` strings, the target languages of a multilingual model.

        Returns:
            A dictionary:

            - `ids`: `[B, N, T]` int32, the subwords of the translations, best first, padded with 0.
            - `subword_count`: `[B, N]` int32.
            - `scores`: `[B, N]` float32, in descending order, `-inf` for missing translations.
            - `truncated`: `[B]` bool, whether the source was truncated.

        Raises:
            tf.errors.InvalidArgumentError: if an id is out of range or follows padding, or a
                language is unknown.
        """
        tokens = ragged_ids(ids, self.model.vocabulary_size)
        source, is_empty, truncated = self._source_of_ids(tokens, language)
        hypotheses = self.translator.without_source(self.search(source), is_empty)
        return {
            "ids": hypotheses.ids,
            "subword_count": hypotheses.lengths,
            "scores": hypotheses.scores,
            "truncated": truncated,
        }

    def route(
        self, sentences: tf.Tensor, language: tf.Tensor | None = None
    ) -> dict[str, tf.Tensor]:
        """Returns the experts of each source subword in the encoder, and of each subword of the
        best translation in the decoder.

        Args:
            sentences: `[B]` strings.
            language: `[1]` or `[B]` strings, the target languages of a multilingual model.

        Returns:
            A dictionary:

            - `source_tokens`: `[B, S]` strings, the encoder's input subwords, with `▁` for a space,
              padded with "". The source of a multilingual model starts with the language symbol.
            - `target_tokens`: `[B, T]` strings, the decoder's input subwords, starting with `<s>`.
            - `NAME_experts` for each mixture NAME: `[B, S or T, K]` int32, largest gate value
              first, -1 for none.
            - `NAME_gates` for each mixture NAME: `[B, S or T, K]` float32, the gate values of these
              experts, 0 for none.
            - `translation`: `[B]` strings.
            - `truncated`: `[B]` bool, whether the source was truncated.

        Raises:
            tf.errors.InvalidArgumentError: if a language is unknown.
        """
        source, is_empty, truncated = self._source(sentences, language)
        hypotheses = self.search(source)
        with self.weights.scope():
            target = tf.RaggedTensor.from_tensor(hypotheses.ids[:, 0], hypotheses.lengths[:, 0])
            target = tf.concat([tf.fill([target.nrows(), 1], START), target], axis=1)
            target = target.to_tensor()
            with recording_routings() as encoder_recordings:
                memory, mask = self.model.encode(at_least_one(source))
            with recording_routings() as decoder_recordings:
                self.model.decode(at_least_one(target), memory, mask)
            source_routes = self._routes(encoder_recordings, source)
            target_routes = self._routes(decoder_recordings, target)
        return {
            "source_tokens": self._pieces(source),
            "target_tokens": self._pieces(target),
            **source_routes,
            **target_routes,
            "translation": self.translator.texts(hypotheses, is_empty)[0][:, 0],
            "truncated": truncated,
        }

    def _search(self, source):
        """The `Hypotheses` of sources, `[B, S]` int32."""
        with self.weights.scope():
            return self.model.translate(source, **self.translator.search)

    def _source(self, sentences, language):
        """The model's inputs, `[B, S]` int32; whether a sentence is empty, `[B]` bool; whether it
        is truncated, `[B]` bool.
        """
        return self._source_of_ids(self.translator.tokenizer.tokenize(sentences), language)

    def _source_of_ids(self, tokens, language):
        """`_source` of subwords, ragged `[B, subwords]` int32."""
        lengths = tokens.row_lengths()
        language_ids = None
        if self.translator.languages:
            language_ids = self._language_ids(language, tf.cast(tokens.nrows(), tf.int32))
        source = self.translator.source(tokens[:, : self.longest_source], language_ids)
        return source, tf.equal(lengths, 0), lengths > self.longest_source

    def _language_ids(self, language, num_sentences):
        ids = self.languages.lookup(language)
        known = ", ".join(self.translator.languages)
        check = tf.debugging.Assert(
            tf.reduce_all(ids >= 0), [f"language must be one of {known}, got", language]
        )
        with tf.control_dependencies([check]):
            return per_sentence(tf.identity(ids), num_sentences, "language")

    def _routes(self, recordings, tokens):
        """`{NAME_experts, NAME_gates}` of recorded mixtures, for tokens `[B, S]` padded with 0."""
        lengths = tf.math.count_nonzero(tokens, axis=1)
        return padded_routings(self.model, recordings, lengths)

    def _pieces(self, tokens):
        """Converts `[B, S]` int32 ids to subword strings, "" for padding."""
        lengths = tf.math.count_nonzero(tokens, axis=1)
        ragged = tf.RaggedTensor.from_tensor(tokens, lengths)
        return padded(tf.gather(self.pieces, ragged.flat_values), lengths, "")
