"""The translation model of the paper: encoder, attention, decoder (section 5.3, App. E).

Axes: B batch, S source steps, T target steps, D model, V vocabulary, N rows of a search (each a
hypothesis for one sentence).
"""

import keras
import tensorflow as tf

from tfmoe.layers import VocabularySoftmax
from tfmoe.models.beam_search import Settings, beam_search, tile
from tfmoe.models.blocks import build_blocks, initial_states, run, run_step
from tfmoe.models.word_predictor import END, PADDING, START, WordPredictor
from tfmoe.ops.tracking import track

# Of the order of what the layers add to the residual stream.
EMBEDDING_STDDEV = 0.25


@keras.saving.register_keras_serializable("tfmoe")
class TranslationModel(WordPredictor):
    """Predicts each next subword of a translation: GNMT (Wu et al. 2016) with fewer layers and
    mixtures of experts between them.

    Source and target share the embedding. All LSTMs run forwards. The decoder's first one feeds the
    attention and is fed by it.

    Args:
        vocabulary_size: V, of both languages together.
        d_model: D, width of the embedding and of every block's output.
        encoder: list of `Residual` layers, in order.
        decoder: list of `Residual` layers, the first around a layer that `needs_memory`, such as an
            `AttentionLSTM`.
        dropout: on the embedding's output; blocks bring their own.
        num_sampled: words of the sampled softmax in training, `None` for the full one.
        seed: integer, for reproducible dropout and draws.

    Call arguments:
        inputs: `(source, target)`: `[B, S]` int32, padded at the end with 0, and `[B, T]` int32,
            `<s> w₁ … wₙ`, padded likewise.

    Returns:
        `[B, T, D]` features; `word_logits` turns them into logits over the vocabulary.

    Trained on batches `((source, target), targets)`, targets `[B, T]` int32 `w₁ … wₙ </s>`; see
    `WordPredictor` for the loss and the metrics.
    """

    counts_gates = False
    counts_softmax = True
    words_per_timestep = 2  # one of the source and one of the target

    def __init__(
        self,
        vocabulary_size,
        d_model,
        encoder,
        decoder,
        dropout=0.0,
        num_sampled=None,
        seed=None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.vocabulary_size = vocabulary_size
        self.d_model = d_model
        self.seed = seed
        self.encoder, self.decoder = list(encoder), list(decoder)
        check_memory(self.encoder, self.decoder)
        self.embedding = keras.layers.Embedding(
            vocabulary_size,
            d_model,
            embeddings_initializer=keras.initializers.RandomNormal(stddev=EMBEDDING_STDDEV),
            name="embedding",
            dtype=self.dtype_policy,
        )
        self.dropout = keras.layers.Dropout(
            dropout, seed=seed, name="dropout", dtype=self.dtype_policy
        )
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
        build_blocks(self.blocks, (None, None, self.d_model))
        self.softmax.build((None, self.d_model))

    @property
    def _default_save_signature(self):
        """None: Keras would trace a call with the shape given to `build`, which is not that of a
        pair.
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
        """Half of the positions each, rounded up: the source's for the encoder, the target's for
        the decoder.
        """
        return [self.predicting_positions(positions)] * len(self.blocks)

    def predicting_positions(self, positions):
        return -(-positions // 2)

    def kept_of_source(self, positions):
        of_position = sum(block.kept_of_source(self.d_model) for block in self.decoder)
        return self.predicting_positions(positions) * of_position

    def encode(self, source, training=False):
        """`[B, S]` int32 to the source vectors `[B, S, D]` and their mask `[B, S]`."""
        mask = tf.not_equal(source, PADDING)
        features = self.dropout(self.embedding(source), training=training)
        return run(self.encoder, features, mask, training), mask

    def decode(self, target, memory, memory_mask, training=False):
        """Features `[B, T, D]` that the next target tokens are predicted from.

        Args:
            target: `[B, T]` int32, `<s> w₁ … wₙ`, padded with 0.
            memory, memory_mask: what `encode` gave.
        """
        first, *others = self.decoder
        features = self.dropout(self.embedding(target), training=training)
        outputs = first.layer(features, memory, memory_mask, training=training)
        features = first.join(features, outputs, training=training)
        return run(others, features, tf.not_equal(target, PADDING), training)

    def attention(self, source, target):
        """`[B, T, S]` float32: how much each target step attends to each source step."""
        memory, mask = self.encode(source)
        layer = self.decoder[0].layer
        return layer(self.embedding(target), memory, mask, return_attention=True)[1]

    def decoding_step(self, memory, memory_mask):
        """The function that reads one more target token of each row.

        Args:
            memory, memory_mask: `[N, S, D]` and `[N, S]`, the source of each row.

        Returns:
            `(tokens [N], states) -> (log-probabilities [N, V] float32, attention [N, S] float32,
            states)`; it begins with `initial_states(N)`.
        """
        first, *others = self.decoder
        prepared = first.prepared(memory, memory_mask)

        def step(tokens, states):
            features, state, attention = first.step(self.embedding(tokens), states[0], prepared)
            features, other_states = run_step(others, features, states[1:])
            log_probabilities = tf.nn.log_softmax(self.softmax(features))
            return log_probabilities, attention, [state, *other_states]

        return step

    def initial_states(self, num_rows):
        """The decoder's states before its first step, for N rows."""
        return initial_states(self.decoder, num_rows)

    @tf.autograph.experimental.do_not_convert
    def translate(
        self,
        source,
        beam_size=4,
        max_length=None,
        length_penalty=0.2,
        coverage_penalty=0.2,
        num_best=1,
        keep_attention=False,
        pruning=None,
    ):
        """Translates by beam search, in the graph.

        Args:
            source: `[B, S]` int32, padded with 0.
            beam_size: hypotheses that are followed.
            max_length: the most subwords of a translation, its end counted: an integer, `[B]`
                integers, or `None` for twice the length of the source and 10 more.
            length_penalty, coverage_penalty: α and β of Wu et al. 2016.
            num_best: translations of each sentence.
            keep_attention: whether to return the attention.
            pruning: as for `tfmoe.models.beam_search.Settings`.

        Returns:
            `tfmoe.models.beam_search.Hypotheses`.
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
            self.initial_states(batch_size),
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
        }

    @classmethod
    def from_config(cls, config):
        blocks = {
            name: [keras.saving.deserialize_keras_object(block) for block in config[name]]
            for name in ("encoder", "decoder")
        }
        return cls(**{**config, **blocks})


def check_memory(encoder, decoder):
    """Raises a ValueError unless the first block of the decoder, and no other block, attends to the
    source.
    """
    attends = [block.needs_memory for block in decoder]
    if attends[:1] != [True] or any(attends[1:]):
        raise ValueError("decoder must have an AttentionLSTM in its first block, and only there")
    if any(block.needs_memory for block in encoder):
        raise ValueError("encoder must not have an AttentionLSTM: there is nothing to attend to")
