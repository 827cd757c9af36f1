"""Translation of strings in one graph: tokenization, beam search, detokenization.

Axes: B sentences, S source subwords, K translations per sentence.
"""

import sys
import time

import tensorflow as tf

from tfmoe.models import Hypotheses, TranslationModel
from tfmoe.ops.arguments import non_negative, positive, positive_or_none

SECONDS_BETWEEN_REPORTS = 5


class Translator(tf.Module):
    """Translates strings.

    Args:
        model: a built `TranslationModel`.
        tokenizer: an object with the methods `tokenize` and `detokenize` of
            `tensorflow_text.SentencepieceTokenizer`, which adds no start or end symbol.
        languages: `{name: id}` of the symbols that select the target language; `None` for a model
            with one direction.
        beam_size: live hypotheses per sentence.
        length_penalty: α of Wu et al. 2016.
        coverage_penalty: β of Wu et al. 2016.
        batch_sentences: sentences per batch in `translate_all`.
        num_best: K.
        pruning: see `TranslationModel.translate`.

    Raises:
        ValueError: if an argument is out of range.
    """

    def __init__(
        self,
        model: TranslationModel,
        tokenizer,
        languages: dict[str, int] | None = None,
        beam_size: int = 4,
        length_penalty: float = 0.2,
        coverage_penalty: float = 0.2,
        batch_sentences: int = 64,
        num_best: int = 1,
        pruning: float | None = None,
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

    def language_id(self, language: str | None) -> int:
        """The id of a target language's symbol; 0 for a model with one direction.

        Args:
            language: name of the target language; ignored by a model with one direction.

        Raises:
            ValueError: if a multilingual model does not translate into this language.
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
            language_id: scalar int32, returned by the method `language_id`.

        Returns:
            `[B, K]` strings, best first, and their scores `[B, K]` float32. The translation of an
            empty sentence is empty. A missing translation has the score `-inf`.
        """
        tokens = self.tokenizer.tokenize(sentences)
        source = self.source(tokens, tf.fill([tf.size(sentences)], language_id))
        hypotheses = self.model.translate(source, **self.search)
        return self.texts(hypotheses, tf.equal(tokens.row_lengths(), 0))

    def source(self, tokens, language_ids):
        """The model's source inputs.

        Args:
            tokens: ragged `[B, subwords]` int32.
            language_ids: `[B]` int32; ignored, and may be `None`, in a model with one direction.

        Returns:
            `[B, S]` int32, padded with 0, S at least 1.
        """
        if self.languages:
            tokens = tf.concat([language_ids[:, None], tokens], axis=1)
        source = tokens.to_tensor()
        return tf.pad(source, [[0, 0], [0, tf.cast(tf.equal(tf.shape(source)[1], 0), tf.int32)]])

    def texts(self, hypotheses: Hypotheses, is_empty: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Converts hypotheses to strings.

        Args:
            hypotheses: `Hypotheses` of B sentences.
            is_empty: `[B]` bool, whether the source sentence is empty.

        Returns:
            `[B, K]` strings and `[B, K]` float32 scores, as returned by `translate`.
        """
        hypotheses = self.without_source(hypotheses, is_empty)
        shape = tf.shape(hypotheses.ids)
        ids = tf.RaggedTensor.from_tensor(
            tf.reshape(hypotheses.ids, [-1, shape[2]]), tf.reshape(hypotheses.lengths, [-1])
        )
        return tf.reshape(self.tokenizer.detokenize(ids), shape[:2]), hypotheses.scores

    @staticmethod
    def without_source(hypotheses: Hypotheses, is_empty: tf.Tensor) -> Hypotheses:
        """Replaces the hypotheses of empty sentences by one empty translation.

        Args:
            hypotheses: `Hypotheses` of B sentences.
            is_empty: `[B]` bool, whether the source sentence is empty.

        Returns:
            `Hypotheses`, with a score of 0 for this translation, and `-inf` for missing ones.
        """
        empty = is_empty[:, None]
        first = tf.range(tf.shape(hypotheses.ids)[1]) == 0
        return hypotheses._replace(
            ids=tf.where(empty[:, :, None], 0, hypotheses.ids),
            lengths=tf.where(empty, 0, hypotheses.lengths),
            scores=tf.where(empty, tf.where(first, 0.0, float("-inf")), hypotheses.scores),
        )

    def translate_all(
        self, sentences: list[str], language: str | None = None, label: str | None = None
    ) -> list[str]:
        """Translates many sentences in batches of similar length.

        Args:
            sentences: list of strings.
            language: target language of a multilingual model.
            label: name of the sentences in progress reports on standard error; `None` for no
                reports.

        Returns:
            List of the best translations, in the order of the sentences.

        Raises:
            ValueError: if a multilingual model does not translate into this language.
        """
        language_id = self.language_id(language)
        order = sorted(range(len(sentences)), key=lambda i: len(sentences[i]))
        translations, last_report = [""] * len(sentences), time.monotonic()
        for start in range(0, len(order), self.batch_sentences):
            batch = order[start : start + self.batch_sentences]
            text, _ = self.translate([sentences[i] for i in batch], language_id)
            for index, best in zip(batch, text[:, 0].numpy(), strict=True):
                translations[index] = best.decode("utf-8", errors="replace")
            if label and time.monotonic() - last_report > SECONDS_BETWEEN_REPORTS:
                last_report = time.monotonic()
                done = start + len(batch)
                print(f"translating {label}: {done:,} of {len(order):,}", file=sys.stderr)
        return translations
