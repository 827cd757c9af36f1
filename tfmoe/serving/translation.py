"""A translation model as functions from strings to strings and numbers, for export.

Axes: B sentences, N best translations, S longest source, T longest translation with its start, K
experts of a token.
"""

import tensorflow as tf

from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.layers.recording import recording_routings
from tfmoe.models.word_predictor import START
from tfmoe.ops.arguments import positive
from tfmoe.serving.signatures import (
    Signature,
    at_least_one,
    one_of_each,
    padded,
    padded_routings,
)

LONGEST_SOURCE = 500  # subwords: a search takes twice as many steps


class ServingTranslator:
    """Translates sentences given as strings, and says which experts they went to.

    Nothing depends on what else is in a batch. Of a sentence of more than `longest_source` subwords
    the rest is not read, and `truncated` says so. An empty sentence has the empty translation.
    Characters that the subwords lack, and bytes that are not UTF-8, are unknown subwords.

    Args:
        translator: a `tfmoe.serving.translator.Translator`. The mixtures of its model must not have
            an `evaluation_capacity_factor`.
        weights: `FrozenWeights` of its model.
        pieces: list of strings, the subwords by id.
        longest_source: the most subwords of a sentence that are read.

    Attributes:
        resources: what the exported module has to hold besides the weights.
    """

    def __init__(self, translator, weights, pieces, longest_source=LONGEST_SOURCE):
        self.translator = translator
        self.model = translator.model
        self.weights = weights
        self.pieces = tf.constant(pieces)
        self.longest_source = positive("longest_source", longest_source)
        self.resources = {"tokenizer": translator.tokenizer}
        if translator.languages:
            names, ids = zip(*translator.languages.items(), strict=True)
            initial = tf.lookup.KeyValueTensorInitializer(
                tf.constant(names), tf.constant(ids, tf.int32)
            )
            self.languages = self.resources["languages"] = tf.lookup.StaticHashTable(initial, -1)

    def signatures(self):
        """`{name: Signature}`; `route` only if the model has a mixture."""
        inputs = [tf.TensorSpec([None], tf.string, "sentences")]
        to = ""
        if self.translator.languages:
            inputs.append(tf.TensorSpec([None], tf.string, "language"))
            to = f"; language, one or one for each: {', '.join(self.translator.languages)}"
        signatures = {
            "translate": Signature(
                self.translate, inputs, f"the best translations and their scores{to}"
            ),
            "route": Signature(
                self.route,
                inputs,
                "the experts of each subword of a sentence and of its best translation, and their "
                f"gate values{to}",
            ),
        }
        if not mixtures_of(self.model):
            del signatures["route"]
        return signatures

    def translate(self, sentences, language=None):
        """Translates by beam search.

        Args:
            sentences: `[B]` strings.
            language: `[1]` or `[B]` strings, the target languages of a multilingual model.

        Returns:
            Dictionary: `translations` `[B, N]` strings, the best first; `scores` `[B, N]` float32,
            falling, `-inf` where there are fewer; `truncated` `[B]` bool.
        """
        with self.weights.scope():
            source, is_empty, truncated = self._source(sentences, language)
            found = self.model.translate(source, **self.translator.search)
        text, scores = self.translator.texts(found, is_empty)
        return {"translations": text, "scores": scores, "truncated": truncated}

    def route(self, sentences, language=None):
        """Says which experts each subword goes to: of the source in the encoder, of the model's
        best translation in the decoder.

        Args:
            sentences, language: as for `translate`.

        Returns:
            Dictionary: `source_tokens` `[B, S]` and `target_tokens` `[B, T]` strings, the subwords
            that encoder and decoder read (`▁` is a space; a multilingual model's source begins with
            its language, a target with `<s>`), padded with ""; for each mixture, by its name,
            `NAME_experts` `[B, S or T, K]` int32, -1 for none, and `NAME_gates`, float32, 0 for
            none, of each subword the largest first; `translation` `[B]` strings; `truncated` `[B]`
            bool.
        """
        with self.weights.scope():
            source, is_empty, truncated = self._source(sentences, language)
            found = self.model.translate(source, **self.translator.search)
            target = tf.RaggedTensor.from_tensor(found.ids[:, 0], found.lengths[:, 0])
            target = tf.concat([tf.fill([target.nrows(), 1], START), target], axis=1)
            target = target.to_tensor()
            with recording_routings() as in_encoder:
                memory, mask = self.model.encode(at_least_one(source))
            with recording_routings() as in_decoder:
                self.model.decode(at_least_one(target), memory, mask)
            source_routes = self._routes(in_encoder, source)
            target_routes = self._routes(in_decoder, target)
        return {
            "source_tokens": self._pieces(source),
            "target_tokens": self._pieces(target),
            **source_routes,
            **target_routes,
            "translation": self.translator.texts(found, is_empty)[0][:, 0],
            "truncated": truncated,
        }

    def _source(self, sentences, language):
        """What the model reads, `[B, S]` int32; which sentences are empty, `[B]` bool; of which the
        rest is left out, `[B]` bool.
        """
        tokens = self.translator.tokenizer.tokenize(sentences)
        lengths = tokens.row_lengths()
        language_ids = None
        if self.translator.languages:
            language_ids = self._language_ids(language, tf.size(sentences))
        source = self.translator.source(tokens[:, : self.longest_source], language_ids)
        return source, tf.equal(lengths, 0), lengths > self.longest_source

    def _language_ids(self, language, number):
        ids = self.languages.lookup(language)
        known = ", ".join(self.translator.languages)
        check = tf.debugging.Assert(
            tf.reduce_all(ids >= 0), [f"language must be one of {known}; it is", language]
        )
        with tf.control_dependencies([check]):
            return one_of_each(tf.identity(ids), number, "language")

    def _routes(self, recordings, tokens):
        """`{NAME_experts, NAME_gates}` of mixtures that ran for tokens `[B, S]`, padded with 0."""
        lengths = tf.math.count_nonzero(tokens, axis=1)
        return padded_routings(self.model, recordings, lengths)

    def _pieces(self, tokens):
        """`[B, S]` int32 to the strings of the subwords, "" for padding."""
        lengths = tf.math.count_nonzero(tokens, axis=1)
        ragged = tf.RaggedTensor.from_tensor(tokens, lengths)
        return padded(tf.gather(self.pieces, ragged.flat_values), lengths, "")
