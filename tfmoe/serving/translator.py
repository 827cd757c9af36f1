"""From text to translated text, in one graph: tokenization, beam search, detokenization.

Axes: B sentences, S subwords of a source, K translations of each sentence, L subwords of one.
"""

import sys
import time

import tensorflow as tf

from tfmoe.ops.arguments import non_negative, positive, positive_or_none

SECONDS_BETWEEN_REPORTS = 5


class Translator(tf.Module):
    """Translates strings.

    Args:
        model: a built `TranslationModel`.
        tokenizer: with `tokenize` and `detokenize` as of
            `tensorflow_text.SentencepieceTokenizer`, without start and end.
        languages: `{name: id}` of the symbols that ask for a target language; empty for a model of
            one direction.
        beam_size, length_penalty, coverage_penalty: as for `TranslationModel.translate`.
        batch_sentences: sentences translated together by `translate_all`.
        num_best: K.
        pruning: as for `TranslationModel.translate`.

    Raises:
        ValueError: if a number is out of its range.
    """

    def __init__(
        self,
        model,
        tokenizer,
        languages=None,
        beam_size=4,
        length_penalty=0.2,
        coverage_penalty=0.2,
        batch_sentences=64,
        num_best=1,
        pruning=None,
    ):
        super().__init__(name="translator")
        self.model = model
        self.tokenizer = tokenizer
        self.languages = dict(languages or {})
        self.batch_sentences = positive("batch_sentences", batch_sentences)
        self.search = {
            "beam_size": positive("beam_size", beam_size),
            "length_penalty": non_negative("length_penalty", length_penalty),
            "coverage_penalty": non_negative("coverage_penalty", coverage_penalty),
            "num_best": positive("num_best", num_best),
            "pruning": positive_or_none("pruning", pruning),
        }
        if num_best > beam_size:
            raise ValueError(f"num_best must be at most beam_size={beam_size}, got {num_best}")

    def language_id(self, language):
        """The id of a target language's symbol; 0, for none, in a model of one direction.

        Raises:
            ValueError: if the model does not translate into the language, or into several and none
                is given.
        """
        if not self.languages:
            return 0
        if language not in self.languages:
            raise ValueError(
                f"the target language must be one of {', '.join(self.languages)}, got {language!r}"
            )
        return self.languages[language]

    @tf.function(
        input_signature=[tf.TensorSpec([None], tf.string), tf.TensorSpec([], tf.int32)],
        autograph=False,
    )
    def translate(self, sentences, language_id):
        """Translates a batch.

        Args:
            sentences: `[B]` strings.
            language_id: scalar int32, see the method of that name.

        Returns:
            `[B, K]` strings, best first, and their scores `[B, K]` float32. An empty sentence has
            the empty translation; where there are fewer than K, the score is `-inf`.
        """
        tokens = self.tokenizer.tokenize(sentences)
        source = self.source(tokens, tf.fill([tf.size(sentences)], language_id))
        found = self.model.translate(source, **self.search)
        return self.texts(found, tf.equal(tokens.row_lengths(), 0))

    def source(self, tokens, language_ids):
        """What the model reads.

        Args:
            tokens: ragged `[B, subwords]` int32.
            language_ids: `[B]` int32; not looked at in a model of one direction.

        Returns:
            `[B, S]` int32, padded with 0, S at least 1.
        """
        if self.languages:
            tokens = tf.concat([language_ids[:, None], tokens], axis=1)
        source = tokens.to_tensor()
        return tf.pad(source, [[0, 0], [0, tf.cast(tf.equal(tf.shape(source)[1], 0), tf.int32)]])

    def texts(self, found, is_empty):
        """The strings of what a search found.

        Args:
            found: `Hypotheses`.
            is_empty: `[B]` bool, sentences that have the empty translation.

        Returns:
            As `translate`.
        """
        shape = tf.shape(found.ids)
        ids = tf.RaggedTensor.from_tensor(
            tf.reshape(found.ids, [-1, shape[2]]), tf.reshape(found.lengths, [-1])
        )
        text = tf.reshape(self.tokenizer.detokenize(ids), shape[:2])
        text = tf.where(is_empty[:, None], "", text)
        only_one = tf.where(tf.range(shape[1]) == 0, 0.0, float("-inf"))
        return text, tf.where(is_empty[:, None], only_one, found.scores)

    def translate_all(self, sentences, language=None, label=None):
        """Translates many sentences, those of similar length together.

        Args:
            sentences: list of strings.
            language: the target language of a multilingual model.
            label: what to call them in reports of progress, on standard error; `None` for no
                reports.

        Returns:
            List of the best translations, in the order of the sentences.
        """
        language_id = self.language_id(language)
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        translations, reported = [None] * len(sentences), time.monotonic()
        for start in range(0, len(order), self.batch_sentences):
            places = order[start : start + self.batch_sentences]
            text, _ = self.translate([sentences[i] for i in places], language_id)
            for place, best in zip(places, text[:, 0].numpy(), strict=True):
                translations[place] = best.decode("utf-8", errors="replace")
            if label and time.monotonic() - reported > SECONDS_BETWEEN_REPORTS:
                reported = time.monotonic()
                done = start + len(places)
                print(f"translating {label}: {done:,} of {len(order):,}", file=sys.stderr)
        return translations
