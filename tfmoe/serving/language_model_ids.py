"""The functions of an exported language model on word ids, for clients that have the vocabulary.

Axes: B sentences, S longest sentence, L most words to generate, N best words.
"""

import tensorflow as tf

from tfmoe.serving.signatures import Signature, ragged_ids


class LanguageModelOnIds:
    """Scores and continues sentences given as ids, like those of strings.

    Args:
        functions: the `ServingLanguageModel`.
    """

    def __init__(self, functions):
        self.functions = functions
        self.vocabulary_size = functions.model.vocabulary_size

    def signatures(self) -> dict[str, Signature]:
        """The exported functions, `{name: Signature}`."""
        ids = tf.TensorSpec([None, None], tf.int32, "ids")
        controls = [
            tf.TensorSpec([None], tf.int32, "length"),
            tf.TensorSpec([None], tf.float32, "temperature"),
            tf.TensorSpec([None], tf.int32, "seed"),
        ]
        return {
            "score_ids": Signature(self.score_ids, [ids], "score, of word ids"),
            "next_token_ids": Signature(self.next_token_ids, [ids], "next_token, of word ids"),
            "generate_ids": Signature(
                self.generate_ids, [ids, *controls], "generate, from and to word ids"
            ),
        }

    def score_ids(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes the log-probabilities of sentences.

        Args:
            ids: `[B, S]` int32, the words of sentences, without start and end, padded at the end
                with 0.

        Returns:
            A dictionary:

            - `log_probability`: `[B]` float32, in nats.
            - `token_log_probabilities`: `[B, S + 1]` float32, of the words and the end; 0 for
              padding.
            - `token_count`: `[B]` int32, number of predictions: words and end.

        Raises:
            tf.errors.InvalidArgumentError: if an id is out of range or follows padding.
        """
        _, values = self.functions.log_probabilities(ragged_ids(ids, self.vocabulary_size))
        padded = values.to_tensor()
        missing = tf.shape(ids)[1] + 1 - tf.shape(padded)[1]
        return {
            "log_probability": tf.reduce_sum(values, axis=1),
            "token_log_probabilities": tf.pad(padded, [[0, 0], [0, missing]]),
            "token_count": tf.cast(values.row_lengths(), tf.int32),
        }

    def next_token_ids(self, ids: tf.Tensor) -> dict[str, tf.Tensor]:
        """Predicts the next word.

        Args:
            ids: as for `score_ids`.

        Returns:
            A dictionary:

            - `ids`: `[B, N]` int32, most probable first; 0 is the end of the sentence.
            - `probabilities`: `[B, N]` float32.

        Raises:
            tf.errors.InvalidArgumentError: see `score_ids`.
        """
        probabilities, best = self.functions.best_next(ragged_ids(ids, self.vocabulary_size))
        return {"ids": best, "probabilities": probabilities}

    def generate_ids(
        self, ids: tf.Tensor, length: tf.Tensor, temperature: tf.Tensor, seed: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Continues sentences word by word.

        Args:
            ids: as for `score_ids`.
            length, temperature, seed: as for `ServingLanguageModel.generate`.

        Returns:
            A dictionary:

            - `ids`: `[B, L]` int32, the new words, padded with 0.
            - `word_count`: `[B]` int32.
            - `ended`: `[B]` bool, whether the end of the sentence was generated.

        Raises:
            tf.errors.InvalidArgumentError: see `score_ids` and `ServingLanguageModel.generate`.
        """
        words = ragged_ids(ids, self.vocabulary_size)
        new, counts, ended = self.functions.continued(words, length, temperature, seed)
        return {"ids": new, "word_count": counts, "ended": ended}
