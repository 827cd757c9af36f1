"""Checks of the assignments of a gate, and of the mixture's output against a dense formula.

Axes: B batch, S steps, T tokens, E experts, D width, H hidden units.
"""

import functools

import keras
import numpy as np
import tensorflow as tf

from tfmoe.layers.gate_inputs import gate_inputs_of
from tfmoe.layers.positions import real_tokens
from tfmoe.testing.mixtures import draw_from_tokens, gate_options, in_dtype, levels_of
from tfmoe.testing.properties import gate_check, require

B, S, D = 6, 4, 5
X = np.random.default_rng(1).standard_normal((B, S, D))
MASK = np.arange(S)[None] < np.array([4, 2, 0, 3, 1, 4])[:, None]
COTANGENT = np.random.default_rng(2).standard_normal((B, S, D))


def made(case, **options):
    """A built mixture in float64 with random matrices, which draws from the tokens."""
    keras.utils.set_random_seed(4)
    layer = case.make_layer(**options)
    layer(X, **gate_options(layer, X))
    rng = np.random.default_rng(3)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape) / np.sqrt(D))
    draw_from_tokens(layer)
    return layer


def routed(layer, x, training):
    """The `Routing` of all tokens of `[B, S, D]` inputs."""
    tokens, _ = real_tokens(x)
    options = gate_options(layer, x)
    inputs = gate_inputs_of(layer, x, tokens, None, options.get("gate_inputs"))
    return inputs.route(layer.gate, training)


def has_capacity(layer, training):
    """Whether the gate limits the rows of an expert, or a level of it does."""
    return any(gate.token_capacity(training) is not None for gate in levels_of(layer.gate))


def by_expert(layer, routing):
    """The weights `[T, E]` of an assignment of T tokens, 0 where a token has not the expert."""
    tokens, experts, weights = routing.assignments.by_token()
    shape = [routing.assignments.num_tokens, layer.num_experts]
    return tf.scatter_nd(tf.stack([tokens, experts], axis=1), weights, shape)


@gate_check(
    "route returns a Routing: pairs of a token and an expert, ids in range and no pair twice, with "
    "finite weights, not more than num_selected experts per token in training (on average, for a "
    "gate with a variable number), and the sums over the tokens.",
    "ids that are not smaller than the number of experts, a division by 0, or a num_selected that "
    "is too small.",
)
@in_dtype("float64")
def routing(case):
    layer = made(case)
    x = tf.constant(X)
    for training in (True, False):
        result = routed(layer, x, training)
        check_assignments(layer, result.assignments, training)
        check_sums(layer, result)
        measures = layer.gate.measures(result.sums)
        unknown = measures.keys() - {*layer.gate.METRICS}
        require(not unknown, f"METRICS lacks {sorted(unknown)}")
        for name, value in measures.items():
            require(np.shape(value) == (), f"the metric {name} is not a scalar: {np.shape(value)}")
        if training:
            loss = layer.gate.loss(result.sums)
            is_scalar = loss is None or (np.shape(loss) == () and np.isfinite(loss))
            require(bool(is_scalar), f"loss must return a finite scalar or None, got {loss}")
    require(layer.ops_per_timestep(D) > 0, "the costs must be positive")


def check_assignments(layer, assignments, training):
    """Raises an `AssertionError` for pairs that are not possible."""
    num_tokens, num_experts = B * S, layer.num_experts
    tokens, experts, weights = (value.numpy() for value in assignments.by_token())
    in_range = (tokens >= 0) & (tokens < num_tokens) & (experts >= 0) & (experts < num_experts)
    require(
        bool(np.all(in_range)),
        f"ids of {num_experts} experts out of range: {set(experts.tolist())}",
    )
    pairs = list(zip(tokens.tolist(), experts.tolist(), strict=True))
    require(len(pairs) == len(set(pairs)), "a token has an expert twice")
    require(bool(np.all(np.isfinite(weights))), "a weight is not finite")
    selected = np.bincount(tokens, minlength=num_tokens)
    bound = layer.num_selected
    require(0 < bound <= num_experts, f"num_selected is {bound}, of {num_experts} experts")
    # A mean over the few tokens of a group is rounded up.
    most = bound if selected.min() == selected.max() or layer.gate.secondary is None else bound + 1
    if training and selected.mean() > most + 1e-9:
        raise AssertionError(
            f"tokens have up to {selected.max()} experts, {selected.mean()} on average, and "
            f"num_selected is {bound}"
        )


def check_sums(layer, result):
    """Raises an `AssertionError` if the standard sums are not those of the assignments."""
    sums, weights = result.sums, by_expert(layer, result).numpy()
    _, experts, _ = result.assignments.by_token()
    load = np.bincount(experts.numpy(), minlength=layer.num_experts)
    np.testing.assert_allclose(sums["tokens"], B * S, err_msg="tokens")
    np.testing.assert_allclose(sums["load"], load, err_msg="load")
    np.testing.assert_allclose(sums["importance"], weights.sum(0), 1e-9, 1e-9, err_msg="importance")


def values_and_gradients(layer, function, x, losses=()):
    """`[y, dx, d(weights)…]` of `sum(y · COTANGENT)` and the losses."""
    x = tf.convert_to_tensor(x)
    kernels = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
        total = tf.add_n([tf.reduce_sum(y * COTANGENT), *(losses() if losses else ())])
    gradients = tape.gradient(total, [x, *kernels], unconnected_gradients="zero")
    return [y, total, *map(tf.convert_to_tensor, gradients)]


def assert_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, 1e-10, 1e-10)


@gate_check(
    "the output of the mixture and its gradients are those of the dense formula, the sum over all "
    "experts of the weight and the output of the expert, in float64.",
    "a weight whose gradient is lost (tf.stop_gradient, a NumPy value, a cast), or assignments "
    "that are not in the order of their experts.",
)
@in_dtype("float64")
def dense_formula(case):
    layer = made(case)
    w_in, w_out = layer.experts.kernels

    def dense(x, training):
        weights = by_expert(layer, routed(layer, x, training))
        tokens = tf.reshape(x, [-1, D])
        hidden = tf.nn.relu(tf.einsum("td,edh->teh", tokens, tf.convert_to_tensor(w_in)))
        outputs = tf.einsum("teh,ehd->ted", hidden, tf.convert_to_tensor(w_out))
        return tf.reshape(tf.einsum("te,ted->td", weights, outputs), tf.shape(x))

    def sparse(x, training):
        return layer(x, training=training, **gate_options(layer, x))

    for training in (False, True):  # in evaluation first: training can change the gate
        if not has_capacity(layer, training):
            expected, actual = (
                values_and_gradients(layer, functools.partial(formula, training=training), X)
                for formula in (dense, sparse)
            )
            assert_close(actual, expected)


@gate_check(
    "a tf.function gives the outputs, losses and gradients of eager calls.",
    "a Python `if` on a tensor, NumPy, or a shape that a graph does not know: use tf.shape(x)[0], "
    "not x.shape[0].",
)
@in_dtype("float64")
def function(case):
    for training in (False, True):
        expected = step_of(made(case), tf.constant(X), training)
        assert_close(in_graph(made(case), training)(tf.constant(X)), expected)


def in_graph(layer, training):
    """A tf.function of the inputs that computes `step_of`, for any number of tokens."""

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, None, D], tf.float64)])
    def in_graph(x):
        return step_of(layer, x, training)

    return in_graph


def step_of(layer, x, training):
    """The values and gradients of a step, with the losses of the gate."""

    def call(x):
        return layer(x, training=training, **gate_options(layer, x))

    return values_and_gradients(layer, call, x, lambda: layer.losses)


@gate_check(
    "what stands in masked positions changes no output, loss or gradient; without the masked "
    "tokens they are the same.",
    "sums over all rows instead of `**per_token` of routing_of_tokens, or `groups` not passed on "
    "to logits and routing_of_tokens.",
)
@in_dtype("float64")
def padding(case):
    other = np.where(MASK[..., None], X, np.random.default_rng(5).standard_normal(X.shape))
    for training in (True, False):
        (y, losses), (y_of_other, losses_of_other) = (
            output_and_losses(made(case), x, training, MASK) for x in (X, other)
        )
        assert_close([y, *losses], [y_of_other, *losses_of_other])
        require(not np.any(y[~MASK]), "the output of padding is not 0")
        layer = made(case)
        if not layer.gate.needs_sequences:
            y_of_tokens, losses_of_tokens = output_and_losses(layer, X[MASK], training)
            assert_close([y[MASK], *losses], [y_of_tokens, *losses_of_tokens])


def output_and_losses(layer, x, training, mask=None):
    """The output of a call, a NumPy array, and the losses that it adds."""
    y = layer(tf.constant(x), mask=mask, training=training, **gate_options(layer, x))
    return y.numpy(), list(layer.losses)


@gate_check(
    "outside of training the experts of a token do not depend on its place or on other tokens, "
    "unless the gate sets depends_on_batch.",
    "a sum, a mean or a top_k over the tokens of the batch: set depends_on_batch = True.",
)
@in_dtype("float64")
def order(case):
    layer = made(case)
    if layer.gate.depends_on_batch or has_capacity(layer, training=False):
        return
    x = X.reshape(-1, D)
    permutation = np.random.default_rng(6).permutation(len(x))
    whole = layer(x, **gate_options(layer, x)).numpy()
    shuffled = layer(x[permutation], **gate_options(layer, x[permutation]))
    np.testing.assert_allclose(shuffled, whole[permutation], 1e-10, 1e-10)
    alone = layer(x[:1], **gate_options(layer, x[:1]))
    np.testing.assert_allclose(alone, whole[:1], 1e-10, 1e-10)
