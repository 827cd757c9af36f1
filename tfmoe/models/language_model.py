"""The language models of the paper: embedding, a stack of residual blocks, softmax (App. C).

Axes: B batch, S steps, D model, V vocabulary.
"""

import keras
import tensorflow as tf

from tfmoe.layers import VocabularySoftmax
from tfmoe.models.blocks import build_blocks, initial_states, run, run_step
from tfmoe.models.word_predictor import PADDING, WordPredictor
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class LanguageModel(WordPredictor):
    """Predicts each next word of a sentence: embedding → blocks → softmax.

    All models of the paper's Tables 7 and 8 are this class with other blocks, as
    `[lstm, moe, lstm]` for a mixture of experts, `[lstm] * 4` for 4xLSTM-512.

    Args:
        vocabulary_size: V.
        d_model: width of the embedding and of every block's output.
        blocks: list of `Residual` layers, in order.
        dropout: on the embedding's output; blocks bring their own.
        num_sampled: words of the sampled softmax in training, `None` for the full one. Evaluation
            always uses the full softmax.
        seed: integer, for reproducible dropout and draws.

    Call arguments:
        tokens: `[B, S]` int32, `<S> w₁ … wₙ`, padded at the end with 0 (the id of `</S>`, which is
            never an input).

    Returns:
        `[B, S, D]` features; `word_logits` turns them into logits over the vocabulary.

    Trained on batches `(tokens, targets)`, targets `[B, S]` int32 `w₁ … wₙ </S>`; see
    `WordPredictor` for the loss and the metrics.
    """

    def __init__(
        self, vocabulary_size, d_model, blocks, dropout=0.0, num_sampled=None, seed=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.seed = seed
        self.embedding = keras.layers.Embedding(
            vocabulary_size, d_model, name="embedding", dtype=self.dtype_policy
        )
        self.dropout = keras.layers.Dropout(
            dropout, seed=seed, name="dropout", dtype=self.dtype_policy
        )
        self.blocks = list(blocks)
        self.softmax = VocabularySoftmax(
            vocabulary_size, num_sampled, seed=seed, name="softmax", dtype=self.dtype_policy
        )
        track(self, blocks=self.blocks, dropout_seed=getattr(self.dropout, "seed_generator", None))

    def build(self, tokens_shape):
        self.embedding.build(tokens_shape)
        build_blocks(self.blocks, (*tokens_shape, self.d_model))
        self.softmax.build((None, self.d_model))

    def call(self, tokens, training=False):
        features = self.dropout(self.embedding(tokens), training=training)
        return run(self.blocks, features, tf.not_equal(tokens, PADDING), training)

    def initial_states(self, num_rows):
        """The states before the first step, for N rows."""
        return initial_states(self.blocks, num_rows)

    def step(self, tokens, states):
        """Reads one more word of each row, at evaluation.

        Args:
            tokens: `[N]` int32.
            states: `initial_states`, or those of the step before.

        Returns:
            `[N, D]` features and the new states.
        """
        return run_step(self.blocks, self.embedding(tokens), states)

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.d_model)

    def predicting_tokens(self, tokens):
        return tokens

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "d_model": self.d_model,
            "blocks": [keras.saving.serialize_keras_object(block) for block in self.blocks],
            "dropout": self.dropout.rate,
            "num_sampled": self.softmax.num_sampled,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config):
        blocks = [keras.saving.deserialize_keras_object(block) for block in config["blocks"]]
        return cls(**{**config, "blocks": blocks})
