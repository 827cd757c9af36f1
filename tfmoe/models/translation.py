"""Translation models: encoder, attention, decoder (section 5.3, App. E).

Axes: B batch, S source steps, T target steps, D model, V vocabulary, N rows of a search (one
hypothesis per row).
"""

from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from tfmoe.layers import VocabularySoftmax
from tfmoe.layers.dropout import Dropout
from tfmoe.layers.normalization import Norm, normalization, normalized
from tfmoe.models.beam_search import Hypotheses, Settings, beam_search, tile
from tfmoe.models.blocks import (
    PADDING,
    attention_weights,
    build_blocks,
    check_memory,
    check_no_later_positions,
    initial_states,
    prepared_sources,
    run,
    run_step,
)
from tfmoe.models.word_predictor import END, START, WordPredictor
from tfmoe.ops.tracking import track

# About the scale of the layers' outputs, which are added to the embeddings.
EMBEDDING_STDDEV = 0.25


@keras.saving.register_keras_serializable("tfmoe")
class TranslationModel(WordPredictor):
    """Translation model: an encoder of the source and a decoder that attends to its output.

    Source and target share the embedding. The paper's model is GNMT (Wu et al. 2016) with fewer
    layers, and mixtures of experts: all LSTMs run forwards, and the decoder's first LSTM queries
    the attention and reads its context vectors. A Transformer has an encoder of
    `SelfAttention(…, causal=False)` and feed-forward networks or mixtures, and a decoder of
    `SelfAttention`, `CrossAttention` and feed-forward networks or mixtures.

    Args:
        vocabulary_size: V, size of the vocabulary that both languages share.
        d_model: D, width of the embedding and of every block's output.
        encoder: `tfmoe.layers.Residual` layers, first to last (see `residual_blocks`).
        decoder: `tfmoe.layers.Residual` layers, first to last. At least one wraps a layer with
            `needs_memory`, an `AttentionLSTM` or `CrossAttention`.
        dropout: dropout rate of the embedding's output. Blocks have their own dropout.
        num_sampled: size of the sampled softmax in training, in subwords; `None` for the full
            softmax. Evaluation always uses the full softmax.
        seed: integer, for reproducible dropout and softmax samples.
        final_norm: normalization of the outputs of encoder and decoder: `"rms"` (RMSNorm),
            `"layer"` (LayerNorm) or `None` for none. Transformers have one.

    Call arguments:
        inputs: `(source, target)`: `[B, S]` int32 and `[B, T]` int32 `<s> w₁ … wₙ`, both padded at
            the end with 0.

    Returns:
        `[B, T, D]` features; `word_logits` converts them to logits over the vocabulary.

    The model trains on batches `((source, target), targets)` with targets `[B, T]` int32
    `w₁ … wₙ </s>`. `compile` needs an optimizer only: the model computes its own loss and metrics
    (`loss`, `perplexity` and `words`).

    Raises:
        ValueError: if no block of the decoder attends to the source, one of the encoder does, a
            block of the decoder reads later positions, or `final_norm` is unknown; when built, if a
            block changes the shape of its input.
    """

    counts_gates = False
    counts_softmax = True
    words_per_timestep = 2  # one source word and one target word

    def __init__(
        self,
        vocabulary_size: int,
        d_model: int,
        encoder: Sequence[keras.Layer],
        decoder: Sequence[keras.Layer],
        dropout: float = 0.0,
        num_sampled: int | None = None,
        seed: int | None = None,
        final_norm: Norm | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.seed = seed
        self.encoder, self.decoder = list(encoder), list(decoder)
        check_memory(self.encoder, self.decoder)
        check_no_later_positions("decoder", self.decoder)
        self.final_norm = final_norm
        self.encoder_norm, self.decoder_norm = (
            normalization("final_norm", final_norm, name, self.dtype_policy)
            for name in ("encoder_norm", "decoder_norm")
        )
        self.embedding = keras.layers.Embedding(
            vocabulary_size,
            d_model,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=EMBEDDING_STDDEV),
            name="embedding",
            dtype=self.dtype_policy,
        )
        self.dropout = Dropout(dropout, seed=seed, name="dropout", dtype=self.dtype_policy)
        self.softmax = VocabularySoftmax(
            vocabulary_size, num_sampled, seed=seed, name="softmax", dtype=self.dtype_policy
        )
        track(
            self,
            encoder=self.encoder,
            decoder=self.decoder,
            dropout_seed=getattr(self.dropout, "seed_generator", None),
        )

    @property
    def blocks(self):
        """All blocks, the encoder's first."""
        return [*self.encoder, *self.decoder]

    def build(self, inputs_shape):
        self.embedding.build((None, None))
        shape = (None, None, self.d_model)
        build_blocks(self.blocks, shape)
        for norm in (self.encoder_norm, self.decoder_norm):
            if norm is not None:
                norm.build(shape)
        self.softmax.build((None, self.d_model))

    @property
    def _default_save_signature(self):
        """`None`: Keras would trace a call with the shape given to `build`, a single shape, but the
        inputs are a pair.
        """
        return None

    def call(self, inputs, training=False):
        source, target = inputs
        memory, mask = self.encode(source, training=training)
        return self.decode(target, memory, mask, training=training)

    def predicting_tokens(self, inputs):
        return inputs[1]

    def tokens_by_block(self, inputs):
        source, target = inputs
        return [source] * len(self.encoder) + [target] * len(self.decoder)

    def positions_by_block(self, positions):
        """Half of the positions, rounded up, for every block.

        The encoder processes the source positions, the decoder the target positions.
        """
        return [self.predicting_positions(positions)] * len(self.blocks)

    def predicting_positions(self, positions):
        return -(-positions // 2)

    def kept_of_source(self, positions):
        bytes_per_position = sum(block.kept_of_source(self.d_model) for block in self.decoder)
        return self.predicting_positions(positions) * bytes_per_position

    def encode(self, source: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Encodes source sentences.

        Args:
            source: `[B, S]` int32, padded with 0.
            training: whether to apply dropout and draw noise.

        Returns:
            The source vectors `[B, S, D]` and their mask `[B, S]` bool, `False` for padding.
        """
        mask = tf.not_equal(source, PADDING)
        features = self.dropout(self.embedding(source), training=training)
        memory = run(self.encoder, features, source, training)
        return normalized(self.encoder_norm, memory), mask

    def decode(
        self,
        target: tf.Tensor,
        memory: tf.Tensor,
        memory_mask: tf.Tensor,
        training: bool = False,
    ) -> tf.Tensor:
        """Decodes target sentences with teacher forcing.

        Args:
            target: `[B, T]` int32, `<s> w₁ … wₙ`, padded with 0.
            memory: `[B, S, D]`, the source vectors of `encode`.
            memory_mask: `[B, S]` bool, the mask of `encode`.
            training: whether to apply dropout and draw noise.

        Returns:
            `[B, T, D]` features, from which `word_logits` predicts the next target tokens.
        """
        features = self.dropout(self.embedding(target), training=training)
        features = run(self.decoder, features, target, training, memory, memory_mask)
        return normalized(self.decoder_norm, features)

    def attention(self, source: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
        """Attention weights of each target step over the source steps: the mean of all heads of
        all blocks that attend to the source.

        Args:
            source: `[B, S]` int32, padded with 0.
            target: `[B, T]` int32, `<s> w₁ … wₙ`, padded with 0.

        Returns:
            `[B, T, S]` float32.
        """
        memory, mask = self.encode(source)
        return attention_weights(self.decoder, self.embedding(target), target, memory, mask)

    def decoding_step(self, memory: tf.Tensor, memory_mask: tf.Tensor) -> Callable:
        """Makes the function that decodes one target step.

        Args:
            memory: `[N, S, D]`, the source vectors of each row.
            memory_mask: `[N, S]` bool, their mask.

        Returns:
            A function `(tokens [N], states) -> (log-probabilities [N, V] float32, attention [N, S]
            float32, states)`. The first call takes `initial_states`.
        """
        sources = self.sources(memory, memory_mask)
        return lambda tokens, states: self.step(tokens, states, sources)

    def sources(self, memory: tf.Tensor, memory_mask: tf.Tensor) -> list:
        """What all steps of `decoding_step` share: a nested structure of tensors `[N, …]`."""
        return prepared_sources(self.decoder, memory, memory_mask)

    def step(self, tokens: tf.Tensor, states: list, sources: list) -> tuple:
        """The function that `decoding_step` makes, with the result of `sources` as an argument."""
        features = self.embedding(tokens)
        features, states, attention = run_step(self.decoder, features, states, tokens, sources)
        features = normalized(self.decoder_norm, features)
        return tf.nn.log_softmax(self.softmax(features)), attention, states

    def initial_states(
        self, num_rows: int | tf.Tensor, max_length: int | tf.Tensor | None = None
    ) -> list:
        """The states of the decoder's blocks before the first step.

        Args:
            num_rows: N, an integer or a scalar tensor.
            max_length: the maximum number of steps, an integer or a scalar tensor: the length of
                the caches of self-attention. `None` if no block has a cache.

        Raises:
            ValueError: if a block has a cache and `max_length` is `None`.
        """
        return initial_states(self.decoder, num_rows, max_length)

    @tf.autograph.experimental.do_not_convert
    def translate(
        self,
        source: tf.Tensor,
        beam_size: int = 4,
        max_length: int | tf.Tensor | None = None,
        length_penalty: float = 0.2,
        coverage_penalty: float = 0.2,
        num_best: int = 1,
        keep_attention: bool = False,
        pruning: float | None = None,
    ) -> Hypotheses:
        """Translates by beam search, as TensorFlow operations.

        Args:
            source: `[B, S]` int32, padded with 0.
            beam_size: live hypotheses per sentence.
            max_length: maximum length of a translation in subwords, end symbol included: an
                integer, `[B]` integers, or `None` for twice the source length plus 10.
            length_penalty: α of Wu et al. 2016.
            coverage_penalty: β of Wu et al. 2016.
            num_best: translations returned per sentence.
            keep_attention: whether to return the attention weights.
            pruning: `None`, or how far below the best a hypothesis may score
                (`tfmoe.models.beam_search.Settings`).

        Returns:
            `Hypotheses`, best first.

        Raises:
            ValueError: if an argument is out of range.
        """
        memory, mask = self.encode(source)
        if max_length is None:
            max_length = 2 * tf.reduce_sum(tf.cast(mask, tf.int32), axis=1) + 10
        batch_size = tf.shape(source)[0]
        settings = Settings(
            vocabulary_size=self.vocabulary_size,
            start_id=START,
            end_id=END,
            beam_size=beam_size,
            num_best=num_best,
            length_penalty=length_penalty,
            coverage_penalty=coverage_penalty,
            keep_attention=keep_attention,
            pruning=pruning,
        )
        return beam_search(
            self.decoding_step(*tile((memory, mask), beam_size)),
            self.initial_states(batch_size, tf.cast(tf.reduce_max(max_length), tf.int32)),
            settings,
            batch_size=batch_size,
            max_length=max_length,
            source_mask=mask,
        )

    def compute_output_shape(self, inputs_shape):
        return (*inputs_shape[1], self.d_model)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "d_model": self.d_model,
            "encoder": [keras.saving.serialize_keras_object(block) for block in self.encoder],
            "decoder": [keras.saving.serialize_keras_object(block) for block in self.decoder],
            "dropout": self.dropout.rate,
            "num_sampled": self.softmax.num_sampled,
            "seed": self.seed,
            "final_norm": self.final_norm,
        }

    @classmethod
    def from_config(cls, config):
        blocks = {
            name: [keras.saving.deserialize_keras_object(block) for block in config[name]]
            for name in ("encoder", "decoder")
        }
        return cls(**{**config, **blocks})
