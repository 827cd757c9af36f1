"""The output layer of a language model: a softmax over a vocabulary that can be very large.

Axes: T tokens, D model, V vocabulary, S sampled candidates.
"""

from typing import Any

import keras
import tensorflow as tf

from tfmoe.distribute import random_draws
from tfmoe.distribute.shards import same_draws
from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.ops import sampling
from tfmoe.ops.arguments import boolean, float_tensor, last_dimension, positive, random_seed
from tfmoe.ops.tracking import track


@keras.saving.register_keras_serializable("tfmoe")
class VocabularySoftmax(keras.layers.Layer):
    """Softmax over V words: full in evaluation, optionally sampled in training.

    Args:
        vocabulary_size: V. Word ids must be sorted by descending frequency.
        num_sampled: S, the number of distinct words that are drawn from the log-uniform
            distribution for each training batch (Jozefowicz et al. 2016: 8192 for V = 793,471).
            `None`, or a number of at least V, trains the full softmax.
        seed: integer, for reproducible draws.
        use_bias: whether the logits have a bias for each word.

    Call arguments:
        features: `[..., D]` of any numeric type.

    Returns:
        `[..., V]` logits in float32. `negative_log_likelihood` never creates a tensor of that size.

    Example:
        >>> softmax = VocabularySoftmax(vocabulary_size=1000, num_sampled=64)
        >>> softmax(np.ones((8, 16))).shape
        TensorShape([8, 1000])
        >>> softmax.training_loss(np.ones((8, 16)), np.arange(8)).shape
        TensorShape([8])
    """

    # The maximum number of logits in a block in evaluation: 64 MiB in float32.
    BLOCK_ELEMENTS = 2**24
    # Words in a block if its size must not depend on the number of tokens.
    STATIC_BLOCK = 4096
    num_sampled: Any  # int or None

    def __init__(
        self,
        vocabulary_size: int,
        num_sampled: int | None = None,
        seed: int | None = None,
        use_bias: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.vocabulary_size = positive("vocabulary_size", vocabulary_size)
        self.num_sampled = None if num_sampled is None else positive("num_sampled", num_sampled)
        self.seed = random_seed("seed", seed)
        self.use_bias = boolean("use_bias", use_bias)
        self.kernel = self.bias = None
        with same_draws():  # all devices use the same candidates for a batch
            self.seed_generator = keras.random.SeedGenerator(self.seed) if num_sampled else None
        track(self, seed_generator=self.seed_generator)

    def build(self, features_shape):
        width = last_dimension(f"features of {self.name}", features_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: width})
        initializer = keras.initializers.VarianceScaling(mode="fan_out", distribution="uniform")
        if self.kernel is None:
            self.kernel = self.add_weight(
                name="kernel", shape=(self.vocabulary_size, width), initializer=initializer
            )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.vocabulary_size,), initializer="zeros"
            )

    def share_kernel(self, kernel: keras.Variable):
        """Uses a variable of another layer, such as the embedding, as the kernel. Call it before
        the layer is built.

        The variable remains that of the other layer: it is not among the variables of this one.

        Args:
            kernel: `[V, D]`.
        """
        self.__dict__["kernel"] = kernel  # not as Keras' attribute, which would track it

    def call(self, features):
        return self._logits(self._floats(features), self.kernel, self.bias)

    def _floats(self, features):
        return float_tensor(f"features of {self.name}", features, self.compute_dtype)

    def _logits(self, features, kernel, bias):
        """Logits `[T, N]` for N rows of the kernel and their biases, `None` without biases."""
        product = tf.matmul(features, tf.cast(kernel, features.dtype), transpose_b=True)
        logits = tf.cast(product, tf.float32)
        return logits if bias is None else logits + tf.cast(bias, tf.float32)

    def _biases(self, read):
        """`read(biases)`, such as the biases of some words; `None` without biases."""
        return read(tf.convert_to_tensor(self.bias)) if self.use_bias else None

    def _target_logits(self, features, targets):
        rows = tf.gather(tf.convert_to_tensor(self.kernel), targets)
        product = tf.reduce_sum(tf.cast(features, tf.float32) * tf.cast(rows, tf.float32), axis=-1)
        bias = self._biases(lambda biases: tf.gather(biases, targets))
        return product if bias is None else product + tf.cast(bias, tf.float32)

    def training_loss(self, features: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Computes the training loss per token: the full negative log-likelihood, or a sampled loss
        if `num_sampled` is less than V.

        The sampled loss is the cross-entropy of the target among the candidates. `log q` is
        subtracted from every logit (q: the probability of being a candidate, see
        `tfmoe.ops.sampling`), and a candidate that equals the target is excluded. Its mean is
        smaller than the full loss, especially for rare targets.

        Args:
            features: `[T, D]` of any numeric type.
            targets: `[T]` word ids of any integer type.

        Returns:
            `[T]` float32, in nats.
        """
        features, targets = self._floats(features), word_ids(targets)
        if not self._samples:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, self(features))
        shape = [self.vocabulary_size]
        uniform = random_draws.uniform(shape, seed=self.seed_generator)
        candidates, time = sampling.log_uniform_candidates(uniform, self.num_sampled)

        def log_q(ids):
            return sampling.log_inclusion_probability(ids, self.vocabulary_size, time)

        target_logits = self._target_logits(features, targets) - log_q(targets)
        kernel = tf.gather(tf.convert_to_tensor(self.kernel), candidates)
        bias = self._biases(lambda biases: tf.gather(biases, candidates))
        logits = self._logits(features, kernel, bias) - log_q(candidates)
        logits = tf.where(targets[:, None] == candidates[None, :], float("-inf"), logits)
        all_logits = tf.concat([target_logits[:, None], logits], axis=1)
        return tf.reduce_logsumexp(all_logits, axis=1) - target_logits

    @property
    def _samples(self):
        return self.num_candidates is not None

    @property
    def num_candidates(self) -> int | None:
        """S; `None` if training uses the full softmax."""
        if self.num_sampled is None or self.num_sampled >= self.vocabulary_size:
            return None
        return self.num_sampled

    def negative_log_likelihood(self, features: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Computes `-log p(target)` under the full softmax, in blocks of the vocabulary, for
        evaluation.

        Args:
            features: `[T, D]` of any numeric type.
            targets: `[T]` word ids of any integer type.

        Returns:
            `[T]` float32, in nats. Do not differentiate it: the gradient would need all logits.
        """
        targets = word_ids(targets)
        # Logits in bfloat16 would make the perplexity inaccurate.
        features = float_tensor(f"features of {self.name}", features, tf.float32)
        log_total = self._log_total_static if static_shapes() else self._log_total
        return log_total(features) - self._target_logits(features, targets)

    def _log_total(self, features):
        """`log Σ exp(logit)` over the vocabulary, `[T]`, in blocks of a size that depends on T."""
        num_tokens = tf.shape(features)[0]
        block = tf.clip_by_value(
            self.BLOCK_ELEMENTS // tf.maximum(num_tokens, 1), 1, self.vocabulary_size
        )
        kernel = tf.convert_to_tensor(self.kernel)

        def add_block(start, log_total):
            bias = self._biases(lambda biases: biases[start : start + block])
            logits = self._logits(features, kernel[start : start + block], bias)
            return start + block, log_sum(log_total, tf.reduce_logsumexp(logits, axis=1))

        _, log_total = tf.while_loop(
            lambda start, _: start < self.vocabulary_size,
            add_block,
            (0, tf.fill([num_tokens], float("-inf"))),
            shape_invariants=(tf.TensorShape([]), tf.TensorShape([None])),
            parallel_iterations=1,
        )
        return log_total

    def _log_total_static(self, features):
        """`_log_total` in blocks of `STATIC_BLOCK` words. The last block starts so that it is full,
        and leaves out the words of the block before.
        """
        block = min(self.STATIC_BLOCK, self.vocabulary_size)
        kernel = tf.convert_to_tensor(self.kernel)

        def total_from(start):
            first = tf.minimum(start, self.vocabulary_size - block)
            bias = self._biases(lambda biases: tf.slice(biases, [first], [block]))
            rows = tf.slice(kernel, [first, 0], [block, kernel.shape[1]])
            logits = self._logits(features, rows, bias)
            is_new = first + tf.range(block) >= start
            return tf.reduce_logsumexp(tf.where(is_new, logits, float("-inf")), axis=1)

        if block == self.vocabulary_size:
            return tf.reduce_logsumexp(self._logits(features, self.kernel, self.bias), axis=1)
        return tf.while_loop(
            lambda start, _: start < self.vocabulary_size,
            lambda start, total: (start + block, log_sum(total, total_from(start))),
            (tf.constant(block), total_from(tf.constant(0))),
            maximum_iterations=-(-self.vocabulary_size // block) - 1,
        )[1]

    def compute_output_shape(self, features_shape):
        return (*features_shape[:-1], self.vocabulary_size)

    def compute_output_spec(self, features):
        return keras.KerasTensor(self.compute_output_shape(features.shape), "float32")

    def ops_per_timestep(self, input_dim: int) -> int:
        """Multiply-adds of the full softmax for one token."""
        return self.vocabulary_size * input_dim

    def kept_for_backward(self, input_dim: int) -> int:
        """Bytes kept per position that predicts a word: the features; a float32 logit for each
        candidate (all words, or `num_sampled` words and the target); with a sampled loss also the
        kernel row of the target, in float32.
        """
        num_candidates, row = self.vocabulary_size, 0
        if self._samples:
            num_candidates, row = self.num_sampled + 1, input_dim
        return tf.as_dtype(self.compute_dtype).size * input_dim + 4 * (row + num_candidates)

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "num_sampled": self.num_sampled,
            "seed": self.seed,
            "use_bias": self.use_bias,
        }


def log_sum(a, b):
    """`log(exp(a) + exp(b))`; `a` may be `-inf`."""
    highest = tf.maximum(a, b)
    return highest + tf.math.log(tf.exp(a - highest) + tf.exp(b - highest))


def word_ids(targets):
    """Casts `[T]` integers of any type to int32."""
    targets = tf.convert_to_tensor(targets)
    if not targets.dtype.is_integer:
        raise ValueError(f"targets must be integers, got {targets.dtype.name}")
    return tf.cast(targets, tf.int32)
