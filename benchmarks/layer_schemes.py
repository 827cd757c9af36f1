"""Training steps of the dense layer, of the mixture and of other schemes for its experts, for
`benchmarks/moe_layer.py`.

Axes: T tokens, E experts, K selected experts per token, D model, H hidden units of one expert, A
assignments, C rows of the expert with the most rows.

All mixtures have the same gate, losses and metrics; only their experts differ:

- `moe`: those of `tfmoe.layers.MoE`;
- `per_variable`: the scheme of tensor2tensor's `SparseDispatcher` (Apache 2.0), the fastest
  dropless one of other libraries that we measured. Rows are gathered and divided by expert, each
  expert has variables of its own, TensorFlow derives all gradients, and a segment sum combines;
- `padded`: each expert is padded to the largest load, and all are computed by batched products.
"""

import math

import numpy as np
import tensorflow as tf

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE
from tfmoe.layers.routed_experts import RoutedExperts

NOISE_STDDEV = math.log(2)  # softplus(0): W_noise starts at zero


class PerVariable(RoutedExperts):
    """Experts with variables of their own."""

    def build(self, tokens_shape, *_):
        self.example_shape = self.output_shape = tuple(tokens_shape[-1:])
        width, hidden = tokens_shape[-1], self.hidden_units
        self.pairs = [
            [
                self.add_weight(name=f"first_{i}", shape=(width, hidden)),
                self.add_weight(name=f"second_{i}", shape=(hidden, width)),
            ]
            for i in range(self.num_experts)
        ]
        self.built = True

    def call(self, tokens, assignments, training=False):
        rows = tf.split(
            tf.gather(tokens, assignments.tokens), assignments.counts, num=self.num_experts
        )
        outputs = [
            tf.matmul(tf.nn.relu(tf.matmul(part, first)), second)
            for part, (first, second) in zip(rows, self.pairs, strict=True)
        ]
        weighted = tf.concat(outputs, axis=0) * assignments.weights[:, None]
        return tf.math.unsorted_segment_sum(weighted, assignments.tokens, assignments.num_tokens)


class Padded(RoutedExperts):
    """Experts padded to the largest load."""

    def call(self, tokens, assignments, training=False):
        counts, width = assignments.counts, tokens.shape[1]
        size = tf.reduce_max(counts)
        within = tf.range(tf.size(assignments.tokens)) - tf.repeat(
            tf.cumsum(counts, exclusive=True), counts
        )
        cells = tf.repeat(tf.range(self.num_experts), counts) * size + within
        shape = tf.stack([self.num_experts * size, width])
        rows = tf.scatter_nd(cells[:, None], tf.gather(tokens, assignments.tokens), shape)
        first, second = self.kernels
        hidden = tf.nn.relu(tf.matmul(tf.reshape(rows, [self.num_experts, -1, width]), first))
        outputs = tf.gather(tf.reshape(tf.matmul(hidden, second), [-1, width]), cells)
        weighted = outputs * assignments.weights[:, None]
        return tf.math.unsorted_segment_sum(weighted, assignments.tokens, assignments.num_tokens)


EXPERTS = {"moe": RoutedExperts, "per_variable": PerVariable, "padded": Padded}


def dense_step(num_tokens, sizes):
    """A function without arguments that runs one training step of the dense layer.

    Args:
        num_tokens: T.
        sizes: `(D, H, K)`.
    """
    width, hidden, k = sizes
    x, dy = random_tokens(num_tokens, width), tf.random.normal([num_tokens, width])
    kernels = [
        tf.Variable(tf.random.normal([width, k * hidden], stddev=0.03)),
        tf.Variable(tf.random.normal([k * hidden, width], stddev=0.03)),
    ]

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = tf.matmul(tf.nn.relu(tf.matmul(x, kernels[0])), kernels[1])
        return tape.gradient(y, [x, *kernels], dy)

    return lambda: step(x, dy)


def mixture_step(kind, num_experts, num_tokens, routing, sizes):
    """A function without arguments that runs one training step of a mixture, and returns its
    largest load over the mean load.

    Args:
        kind: a key of `EXPERTS`.
        num_experts: E.
        num_tokens: T.
        routing: `"uniform"` or `"zipf"`: see `benchmarks/moe_layer.py`.
        sizes: `(D, H, K)`.
    """
    width = sizes[0]
    x, dy = random_tokens(num_tokens, width), tf.random.normal([num_tokens, width])
    layer = make_mixture(kind, num_experts, routing, sizes)
    weights = [weight.value for weight in layer.trainable_weights]
    metrics = layer.expert_metrics

    @tf.function
    def step(x, dy):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            losses = layer.losses
        return tape.gradient([y, *losses], [x, *weights], [dy, *map(tf.ones_like, losses)])

    def run():
        metrics.reset_state()
        step(x, dy)
        return float(metrics.result()["moe_max_over_mean_load"])

    return run


def make_mixture(kind, num_experts, routing, sizes):
    """A built `MoE` named "moe": see `mixture_step`."""
    width, hidden, k = sizes
    gate = NoisyTopK(k=k, importance_weight=0.1, load_weight=0.1)
    layer = MoE(num_experts, hidden, gate=gate, name="moe")
    if kind != "moe":
        layer.experts = EXPERTS[kind](num_experts, hidden_units=hidden, name="experts")
    layer.build([None, width])
    if routing == "zipf":
        # The first feature of each token is 1, so its row of W_g is a bias.
        kernel = np.zeros([width, num_experts], np.float32)
        kernel[0] = zipf_logits(num_experts, k)
        layer.gate.kernels["gate_kernel"].assign(kernel)
    return layer


def random_tokens(num_tokens, width):
    return tf.concat([tf.ones([num_tokens, 1]), tf.random.normal([num_tokens, width - 1])], axis=1)


def zipf_skew(num_experts, k):
    """The largest load over the mean load, of the routing `zipf`."""
    return min(10, 0.75 * num_experts / k)


def zipf_logits(num_experts, k):
    """`[E]`: `-s·ln(rank)`, with shuffled ranks, and s for the skew of `zipf_skew`."""
    target = zipf_skew(num_experts, k)
    random = np.random.default_rng(0)
    noise = NOISE_STDDEV * random.standard_normal([4096, num_experts])
    log_rank = np.log(np.arange(1, num_experts + 1))
    low, high = 0.0, 5.0
    for _ in range(20):
        s = (low + high) / 2
        selected = np.argpartition(-(noise - s * log_rank), k, axis=1)[:, :k]
        loads = np.bincount(selected.ravel(), minlength=num_experts)
        low, high = (low, s) if loads.max() > target * loads.mean() else (s, high)
    return random.permutation(-s * log_rank)
