"""The language models of the paper: embedding, a stack of residual blocks, softmax (App. C).

Axes: B batch, S steps, T real (not padded) tokens, D model, V vocabulary.
"""

import keras
import tensorflow as tf

from tfmoe.layers import ProjectedLSTM, Residual, VocabularySoftmax
from tfmoe.models.perplexity import Perplexity

PADDING = 0


@keras.saving.register_keras_serializable("tfmoe")
class LanguageModel(keras.Model):
    """Predicts each next word of a sentence: embedding → blocks → softmax.

    All models of the paper's Tables 7 and 8 are this class with other blocks, as
    `[lstm, moe, lstm]` for a mixture of experts, `[lstm] * 4` for 4xLSTM-512.

    Args:
        vocabulary_size: V.
        d_model: width of the embedding and of every block's output.
        blocks: list of `Residual` layers, in order.
        dropout: on the embedding's output; blocks bring their own.
        num_sampled: draws for the sampled softmax in training, `None` for the full one. Evaluation
            always uses the full softmax.
        seed: integer, for reproducible dropout and draws.

    Call arguments:
        tokens: `[B, S]` int32, `<S> w₁ … wₙ`, padded at the end with 0 (the id of `</S>`, which is
            never an input).

    Returns:
        `[B, S, D]` features; `word_logits` turns them into logits over the vocabulary.

    Trained on batches `(tokens, targets)`, targets `[B, S]` int32 `w₁ … wₙ </S>`: the loss is the
    mean over real positions plus the balancing losses of the blocks. `compile` needs an optimizer
    and no loss. `evaluate` gives `perplexity` per word, the end of the sentence counted. `words` is
    the number of real positions of an epoch or an evaluation.
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
        self.perplexity = Perplexity()
        self.words = keras.metrics.Sum(name="words", dtype="float64")

    def build(self, tokens_shape):
        features_shape = (*tokens_shape, self.d_model)
        self.embedding.build(tokens_shape)
        for block in self.blocks:
            if not block.built:  # it is, where it was read from a saved model
                block.build(features_shape)
        self.softmax.build((None, self.d_model))

    def call(self, tokens, training=False):
        *_, features = self.features_by_block(tokens, training=training)
        return features

    def features_by_block(self, tokens, training=False):
        """Yields the input of every block, `[B, S, D]`, and at last the output of the last one."""
        mask = tf.not_equal(tokens, PADDING)
        features = self.dropout(self.embedding(tokens), training=training)
        for block in self.blocks:
            yield features
            # Padding follows the sentence: through a recurrence it cannot reach a real step.
            needs_mask = not isinstance(block.layer, ProjectedLSTM)
            features = block(features, mask=mask if needs_mask else None, training=training)
        yield features

    def compute_output_shape(self, tokens_shape):
        return (*tokens_shape, self.d_model)

    def word_logits(self, features):
        """`[..., D]` features to `[..., V]` float32 logits of the next word."""
        flat = self.softmax(tf.reshape(features, [-1, self.d_model]))
        return tf.reshape(flat, tf.concat([tf.shape(features)[:-1], [self.vocabulary_size]], 0))

    def negative_log_likelihood(self, tokens, targets):
        """`-log p(target)` of every real position, by the full softmax.

        Args:
            tokens, targets: `[B, S]` int32.

        Returns:
            `[T]` float32, in nats, in reading order.
        """
        features, targets = self._real_positions(tokens, targets, self(tokens, training=False))
        return self.softmax.negative_log_likelihood(features, targets)

    def _real_positions(self, tokens, targets, features):
        """`[T, D]` features and `[T]` targets of the positions that are not padding."""
        positions = tf.where(tf.not_equal(tokens, PADDING))
        return tf.gather_nd(features, positions), tf.gather_nd(targets, positions)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            raise ValueError(
                "LanguageModel weighs every real word alike: sample_weight must be None"
            )
        features, targets = self._real_positions(x, y, y_pred)
        if training:
            values = self.softmax.training_loss(features, targets)
        else:
            values = self.softmax.negative_log_likelihood(features, targets)
            self.perplexity.update_state(values)
        words = tf.cast(tf.size(values), values.dtype)
        self.words.update_state(words)
        balancing = [tf.cast(loss, values.dtype) for loss in self.losses]
        return tf.math.divide_no_nan(tf.reduce_sum(values), words) + sum(balancing)

    def train_step(self, data):
        logs = super().train_step(data)
        logs.pop(self.perplexity.name)  # measured by evaluation only
        return logs

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


def residual_blocks(layers, dropout=0.0, seed=None):
    """Puts the paper's dropout and residual connection around layers; a mixture's output goes
    through a sigmoid first.

    Args:
        layers: list of `ProjectedLSTM`, `MoE` or `FeedForward`.
        dropout: on every layer's output.
        seed: integer; every block gets its own.

    Returns:
        List of `Residual`.
    """
    return [
        Residual(
            layer,
            activation=None if isinstance(layer, ProjectedLSTM) else "sigmoid",
            dropout=dropout,
            seed=None if seed is None else seed + 1 + i,
        )
        for i, layer in enumerate(layers)
    ]
