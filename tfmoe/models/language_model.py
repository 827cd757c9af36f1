"""Language models: embedding, a stack of residual blocks, softmax (App. C).

Axes: B batch, S steps, D model, V vocabulary.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from tfmoe.layers import VocabularySoftmax
from tfmoe.layers.dropout import Dropout
from tfmoe.layers.normalization import EPSILON, Norm, normalization, normalized
from tfmoe.models.blocks import (
    build_blocks,
    check_no_later_positions,
    initial_states,
    run,
    run_step,
)
from tfmoe.models.word_predictor import WordPredictor
from tfmoe.ops.arguments import boolean
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class LanguageModel(WordPredictor):
    """Language model that predicts the next word: embedding → blocks → softmax.

    All models of the paper's Tables 7 and 8 are instances with different blocks: `[lstm, moe,
    lstm]` for a mixture of experts, `[lstm] * 4` for 4xLSTM-512. A Transformer has blocks of
    self-attention and of feed-forward networks or mixtures, with normalizations.

    Args:
        vocabulary_size: V.
        d_model: width of the embedding and of every block's output.
        blocks: `tfmoe.layers.Residual` layers, first to last (see `residual_blocks`).
        dropout: dropout rate of the embedding's output. Blocks have their own dropout.
        num_sampled: size of the sampled softmax in training, in words; `None` for the full softmax.
            Evaluation always uses the full softmax.
        seed: integer, for reproducible dropout and softmax samples.
        final_norm: normalization of the last block's output: `"rms"` (RMSNorm), `"layer"`
            (LayerNorm) or `None` for none. Transformers have one.
        final_norm_epsilon: added to the mean square or the variance of that normalization, above 0.
        softmax_bias: whether the logits have a bias for each word.
        tie_embeddings: whether the softmax has the matrix of the embedding (Press and Wolf 2017),
            instead of one of its own.

    Call arguments:
        tokens: `[B, S]` int32, `<S> w₁ … wₙ`, padded at the end with 0 (the id of `</S>`, which is
            never an input).

    Returns:
        `[B, S, D]` features; `word_logits` converts them to logits over the vocabulary.

    The model trains on batches `(tokens, targets)` with targets `[B, S]` int32 `w₁ … wₙ </S>`.
    `compile` needs an optimizer only: the model computes its own loss and metrics (`loss`,
    `perplexity` and `words`).

    Raises:
        ValueError: if a block reads later positions, or `final_norm` is unknown; when built, if a
            block changes the shape of its input.
    """

    def __init__(
        self,
        vocabulary_size: int,
        d_model: int,
        blocks: Sequence[keras.Layer],
        dropout: float = 0.0,
        num_sampled: int | None = None,
        seed: int | None = None,
        final_norm: Norm | None = None,
        final_norm_epsilon: float = EPSILON,
        softmax_bias: bool = True,
        tie_embeddings: bool = False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.seed = seed
        self.embedding = keras.layers.Embedding(
            vocabulary_size, d_model, name="embedding", dtype=self.dtype_policy
        )
        self.dropout = Dropout(dropout, seed=seed, name="dropout", dtype=self.dtype_policy)
        self.blocks = list(blocks)
        check_no_later_positions("blocks", self.blocks)
        self.final_norm, self.final_norm_epsilon = final_norm, final_norm_epsilon
        self.normalization = normalization(
            "final_norm", final_norm, "norm", self.dtype_policy, final_norm_epsilon
        )
        self.tie_embeddings = boolean("tie_embeddings", tie_embeddings)
        self.softmax = VocabularySoftmax(
            vocabulary_size,
            num_sampled,
            seed=seed,
            use_bias=boolean("softmax_bias", softmax_bias),
            name="softmax",
            dtype=self.dtype_policy,
        )
        track(self, blocks=self.blocks, dropout_seed=getattr(self.dropout, "seed_generator", None))

    def build(self, tokens_shape):
        self.embedding.build(tokens_shape)
        build_blocks(self.blocks, (*tokens_shape, self.d_model))
        if self.normalization is not None:
            self.normalization.build((*tokens_shape, self.d_model))
        if self.tie_embeddings:
            self.softmax.share_kernel(self.embedding.embeddings)
        self.softmax.build((None, self.d_model))

    def call(self, tokens, training=False):
        features = self.dropout(self.embedding(tokens), training=training)
        features = run(self.blocks, features, tokens, training)
        return normalized(self.normalization, features)

    def initial_states(
        self, num_rows: int | tf.Tensor, max_length: int | tf.Tensor | None = None
    ) -> list:
        """The states of all blocks before the first step.

        Args:
            num_rows: N, an integer or a scalar tensor.
            max_length: the maximum number of steps, an integer or a scalar tensor: the length of
                the caches of self-attention. `None` if no block has a cache.

        Raises:
            ValueError: if a block has a cache and `max_length` is `None`.
        """
        return initial_states(self.blocks, num_rows, max_length)

    def step(self, tokens: tf.Tensor, states: list) -> tuple[tf.Tensor, list]:
        """Reads the next word of each row, in inference mode.

        Args:
            tokens: `[N]` int32.
            states: `initial_states`, or the states returned by the previous step.

        Returns:
            `[N, D]` features and the new states.
        """
        features, states, _ = run_step(self.blocks, self.embedding(tokens), states, tokens)
        return normalized(self.normalization, features), states

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
            "final_norm": self.final_norm,
            "final_norm_epsilon": self.final_norm_epsilon,
            "softmax_bias": self.softmax.use_bias,
            "tie_embeddings": self.tie_embeddings,
        }

    @classmethod
    def from_config(cls, config):
        blocks = [keras.saving.deserialize_keras_object(block) for block in config["blocks"]]
        return cls(**{**config, "blocks": blocks})
