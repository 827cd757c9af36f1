import keras
import numpy as np
import pytest
import tensorflow as tf
from gating.dense import dense_gates

from tfmoe.gating import BiasBalanced, Groups, Hierarchical, MicroStep
from tfmoe.layers import MoE

RNG = np.random.default_rng(0)
T, D, E = 11, 5, 8
X = RNG.standard_normal((T, D))
KERNEL, BIAS = RNG.standard_normal((D, E)), RNG.uniform(-0.3, 0.3, E)


def built_gate(num_experts=3, input_dim=3, **arguments):
    gate = BiasBalanced(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    return gate


def logit(probability):
    return np.log(probability / (1 - np.asarray(probability)))


@pytest.mark.parametrize(
    ("center", "expected"),
    [(False, [-0.1, 0.1, 0.1]), (True, [-0.4 / 3, 0.2 / 3, 0.2 / 3])],
)
def test_update_by_hand(center, expected):
    # Loads 4, 1, 1: the mean is 2. The mean of the changes is 0.1 / 3.
    gate = built_gate(k=2, bias_step=0.1, center_bias=center)
    gate.update({"load": tf.constant([4.0, 1.0, 1.0])})
    np.testing.assert_allclose(gate.bias, expected, rtol=1e-12)
    gate.update({"load": tf.constant([1.0, 1.0, 1.0])})
    np.testing.assert_allclose(gate.bias, expected, rtol=1e-12)


def test_loads_of_a_step_are_added_by_hand():
    gate = built_gate(k=2, bias_step=0.1, center_bias=False)
    for load, micro_step in (
        ([9.0, 0.0, 0.0], MicroStep(True, False)),
        ([0.0, 4.0, 0.0], MicroStep(False, False)),
        ([0.0, 2.0, 3.0], MicroStep(tf.constant(False), tf.constant(True))),
    ):
        np.testing.assert_array_equal(gate.bias, [0, 0, 0])
        gate.update({"load": tf.constant(load)}, micro_step)
    # 9, 6, 3: the mean is 6.
    np.testing.assert_allclose(gate.bias, [-0.1, 0, 0.1], rtol=1e-12)
    gate.update({"load": tf.constant([0.0, 1.0, 2.0])})
    np.testing.assert_allclose(gate.bias, [0, 0, 0], atol=1e-12)


def test_the_bias_selects_and_is_in_no_weight():
    # Scores .8 .6 .5; with the bias .8 .6 .9: experts 2 and 0.
    gate = built_gate(k=2, scale=2.5)
    gate.gate_kernel.assign(np.eye(3))
    gate.bias.assign([0, 0, 0.4])
    routing = gate(tf.constant([logit([0.8, 0.6, 0.5])]))
    np.testing.assert_allclose(
        dense_gates(routing, 1, 3), [[2.5 * 8 / 13, 0, 2.5 * 5 / 13]], rtol=1e-12
    )


def test_expert_groups_by_hand():
    # Groups {.9, .1}, {.6, .5}: the sum of two is 1.0 and 1.1, the best alone .9 and .6.
    scores = tf.constant([logit([0.9, 0.1, 0.6, 0.5])])
    for best, expected in ((2, [[0, 0, 0.6, 0.5]]), (1, [[0.9, 0.1, 0, 0]])):
        gate = built_gate(4, 4, k=2, expert_groups=2, best_per_group=best, renormalize=False)
        gate.gate_kernel.assign(np.eye(4))
        np.testing.assert_allclose(dense_gates(gate(scores), 1, 4), expected, rtol=1e-12)


def reference(x, kernel, bias, k, score, renormalize, scale, groups, kept, best):
    """The gates of DeepSeek-V2 and V3 in NumPy, token by token; `[T, E]`."""
    gates = np.zeros((len(x), kernel.shape[1]))
    for t, logits in enumerate(x @ kernel):
        s = 1 / (1 + np.exp(-logits)) if score == "sigmoid" else np.exp(logits)
        s = s if score == "sigmoid" else s / s.sum()
        biased = s + bias
        parts = np.split(np.arange(len(s)), groups)
        totals = [np.sort(biased[part])[-best:].sum() for part in parts]
        allowed = np.concatenate([parts[i] for i in np.argsort(totals)[-kept:]])
        selected = allowed[np.argsort(biased[allowed])[-k:]]
        total = s[selected].sum() if renormalize else 1
        gates[t, selected] = scale * s[selected] / total
    return gates


@pytest.mark.parametrize(
    ("score", "renormalize", "scale", "groups", "kept", "best"),
    [
        ("sigmoid", True, 2.5, 4, 2, 2),  # DeepSeek-V3
        ("softmax", False, 16.0, 4, 2, 1),  # DeepSeek-V2
        ("sigmoid", True, 1.0, 1, 1, 1),
    ],
)
def test_published_gates(score, renormalize, scale, groups, kept, best):
    options = {"score": score, "renormalize": renormalize, "scale": scale}
    expected = reference(X, KERNEL, BIAS, 3, *options.values(), groups, kept, best)
    if groups > 1:
        options |= {"expert_groups": groups, "groups_per_token": kept, "best_per_group": best}
    gate = built_gate(E, D, k=3, **options)
    gate.gate_kernel.assign(KERNEL)
    gate.bias.assign(BIAS)
    np.testing.assert_allclose(dense_gates(gate(tf.constant(X)), T, E), expected, rtol=1e-10)


def test_a_mixture_equals_the_dense_formula():
    """Values and gradients."""
    layer = MoE(E, 6, gate=BiasBalanced(k=3, scale=1.5), dtype="float64")
    layer.build((None, D))
    layer.gate.gate_kernel.assign(KERNEL)
    layer.gate.bias.assign(BIAS)
    w_in, w_out = layer.experts.kernels
    variables = [layer.gate.gate_kernel.value, w_in.value, w_out.value]
    x = tf.constant(X)

    def dense():
        scores = tf.sigmoid(x @ variables[0])
        kth = tf.sort(scores + BIAS)[:, -3:-2]
        kept = tf.where(scores + BIAS >= kth, scores, 0.0)
        weights = 1.5 * kept / tf.reduce_sum(kept, axis=1, keepdims=True)
        hidden = tf.nn.relu(tf.einsum("td,edh->teh", x, variables[1]))
        return tf.einsum("te,teh,ehd->td", weights, hidden, variables[2])

    results = []
    for function in (lambda: layer(x), dense):
        with tf.GradientTape() as tape:
            y = function()
            loss = tf.reduce_sum(tf.sin(y))
        results.append([y, *tape.gradient(loss, variables)])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, tf.convert_to_tensor(expected), rtol=1e-9, atol=1e-12)


def test_sequence_loss_by_hand():
    # k = 1 of 2 experts; sequences of 2, 0 and 1 tokens.
    gate = built_gate(2, 2, k=1, renormalize=False, sequence_weight=0.5)
    gate.gate_kernel.assign(np.eye(2))
    x = tf.constant(logit([[0.6, 0.2], [0.6, 0.4], [0.1, 0.3]]))
    sums = gate(x, training=True, sequences=Groups(tf.constant([2, 0, 1]))).sums
    # Shares: (3/4, 1/4), (3/5, 2/5) in sequence 0; (1/4, 3/4) in sequence 2.
    first = 2 * 1 * (3 / 4 + 3 / 5) / 2
    second = 2 * 1 * 3 / 4
    assert gate.loss(sums).numpy() == pytest.approx(0.5 * (first + second) / 2, rel=1e-12)
    one = gate.loss(gate(x, training=True).sums).numpy()
    p = ((3 / 4 + 3 / 5 + 1 / 4) / 3, (1 / 4 + 2 / 5 + 3 / 4) / 3)
    assert one == pytest.approx(0.5 * 2 * (2 / 3 * p[0] + 1 / 3 * p[1]), rel=1e-12)


def test_sequence_loss_of_a_mixture_with_padding():
    """Against NumPy, sequence by sequence; padding does not count."""
    gate = BiasBalanced(k=2, sequence_weight=0.3)
    layer = MoE(4, 3, gate=gate, dtype="float64", name="moe")
    x = RNG.standard_normal((3, 4, D))
    lengths = [4, 1, 0]
    mask = np.arange(4) < np.array(lengths)[:, None]
    layer.build(x.shape)
    kernel = RNG.standard_normal((D, 4))
    layer.gate.gate_kernel.assign(kernel)
    layer(x, mask=mask, training=True)
    losses = []
    for row, length in zip(x[:2], lengths, strict=False):
        s = 1 / (1 + np.exp(-row[:length] @ kernel))
        selected = np.argsort(s, axis=1)[:, -2:]
        f = 4 / (2 * length) * np.bincount(selected.ravel(), minlength=4)
        losses.append(f @ (s / s.sum(axis=1, keepdims=True)).mean(axis=0))
    assert float(layer.losses[0]) == pytest.approx(0.3 * np.mean(losses), rel=1e-6)


def compiled_model(accumulation=None, **arguments):
    keras.utils.set_random_seed(1)
    layer = MoE(E, 4, gate=BiasBalanced(k=2, bias_step=0.1), name="moe", **arguments)
    model = keras.Sequential([keras.Input([D]), layer])
    model.compile(keras.optimizers.SGD(0.0, gradient_accumulation_steps=accumulation), "mse")
    return model


def expected_bias(model, x, steps):
    """The bias after some steps with the same batch and no change of the kernel."""
    kernel, bias = model.layers[-1].gate.gate_kernel.numpy(), np.zeros(E)
    for _ in range(steps):
        scores = 1 / (1 + np.exp(-x @ kernel)) + bias
        load = np.bincount(np.argsort(scores, axis=1)[:, -2:].ravel(), minlength=E)
        change = 0.1 * np.sign(load.mean() - load)
        bias += change - change.mean()
    return bias


def test_the_bias_changes_once_in_a_step_of_several_batches():
    x = RNG.standard_normal((12, D)).astype("float32")
    model = compiled_model(accumulation=3)
    bias = model.layers[-1].gate.bias
    for step in range(2):
        for batch, steps in ((x[:4], step), (x[4:8], step), (x[8:], step + 1)):
            model.train_on_batch(batch, batch)
            np.testing.assert_allclose(bias, expected_bias(model, x, steps), atol=1e-6)


def test_recompute_of_the_layer_changes_the_bias_once():
    x = RNG.standard_normal((12, D)).astype("float32")
    model = compiled_model(recompute=True)
    model.train_on_batch(x, x)
    np.testing.assert_allclose(model.layers[-1].gate.bias, expected_bias(model, x, 1), atol=1e-6)


def test_a_recomputed_call_raises_an_error():
    layer = compiled_model().layers[-1]
    call = tf.recompute_grad(lambda x: layer(x, training=True))
    with pytest.raises(ValueError, match=r"moe updates weights of its gate.*recompute=True of the"):
        call(tf.ones([2, D]))
    np.testing.assert_array_equal(layer.gate.bias, np.zeros(E))


def test_a_loop_over_time_steps_raises_an_error():
    layer = compiled_model().layers[-1]

    class Loop(keras.layers.Layer):
        def call(self, x):
            def step(i, y):
                return i + 1, layer(y, training=True)

            return tf.while_loop(lambda i, _: i < 2, step, [0, x])[1]

    model = keras.Sequential([keras.Input([D]), Loop()])
    with pytest.raises(ValueError, match=r"moe updates weights of its gate.* on all time steps"):
        tf.function(model, autograph=False)(tf.ones([2, D]))


def test_levels_of_a_hierarchical_mixture():
    gate = BiasBalanced(k=2, bias_step=0.1, center_bias=False)
    layer = MoE(12, 4, gate=gate, groups=4)
    layer(X.astype("float32"), training=True)
    outer, inner = layer.gate.primary, layer.gate.secondary
    assert (outer.bias.shape, inner.bias.shape) == ((4,), (4, 3))
    for level in (outer, inner):
        load = level.step_load.numpy()
        expected = 0.1 * np.sign(load.mean(axis=-1, keepdims=True) - load)
        np.testing.assert_allclose(level.bias, expected, atol=1e-6)
    assert outer.step_load.numpy().sum() == 2 * T and inner.step_load.numpy().sum() == 4 * T
    with pytest.raises(ValueError, match="secondary must not need the sequences"):
        Hierarchical(2, "switch", BiasBalanced(sequence_weight=0.1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"score": "tanh"}, "score must be 'sigmoid' or 'softmax'|score must be one of"),
        ({"bias_step": -1}, "bias_step must be .* at least 0, got -1"),
        ({"scale": 0}, "scale must be"),
        ({"expert_groups": 3}, "expert_groups must divide 8, the number of experts, got expert_g"),
        ({"expert_groups": 2, "groups_per_token": 3}, "groups_per_token must be at most expert_g"),
        ({"expert_groups": 4, "k": 3}, "k must be at most 2, the number of experts in groups_per"),
        ({"sequence_weight": -0.1}, "sequence_weight must be .* at least 0"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        BiasBalanced(num_experts=8, **{"k": 2, **arguments})


def test_a_constant_weight_gives_a_warning():
    with pytest.warns(UserWarning, match="BiasBalanced with k=1 and renormalize=True"):
        built_gate(k=1)
