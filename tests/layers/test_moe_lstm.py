"""`MoELSTM` by hand, against the dense formula, and as a layer of models."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import BiasBalanced, Hierarchical, NoisyTopK, Softmax, Switch
from tfmoe.gating.kernels import GateKernels
from tfmoe.layers import MoELSTM, ProjectedLSTM
from tfmoe.layers.recording import recording_routings

B, S, D, U, E = 3, 5, 4, 6, 4
KEPT_PER_LOGIT = GateKernels.KEPT_PER_LOGIT
OPTIONS = [
    {"mixture_of": mixture, "gate_from": gate}
    for mixture, gate in itertools.product(("both", "input"), ("state", "input"))
]
RNG = np.random.default_rng(0)
INPUTS = RNG.standard_normal((B, S, D))
MASK = np.arange(S) < np.array([5, 2, 4])[:, None]


def make(gate=None, dtype="float64", **options):
    """A `MoELSTM` with random weights. Its gate selects two experts, without noise."""
    gate = gate or NoisyTopK(k=2, noise=False, importance_weight=0.1)
    options = {"metrics": "all", **options}
    layer = MoELSTM(E, U, gate=gate, dtype=dtype, **options)
    layer.build((None, None, D))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def weights_of(layer):
    return {weight.name: weight.value for weight in layer.trainable_weights}


def test_two_steps_by_hand():
    """Two experts, D = U = 1. The gate's logits are 0, so both have the weight 1/2."""
    layer = MoELSTM(2, 1, gate=Softmax())
    layer.build((None, None, 1))
    layer.gate.gate_kernel.assign(np.zeros([2, 2]))
    # Rows: x, h. Columns: i, f, g, o. The bias is [0, 1, 0, 0].
    layer.experts.kernel.assign([[[2, 0, 4, 0], [4, 0, 0, 0]], [[0, 0, 0, 2], [0, 0, 0, 0]]])
    outputs = layer(np.array([[[1.0], [0.0]]])).numpy()[0, :, 0]
    # x = 1, h = c = 0: z = ([2, 0, 4, 0] + [0, 0, 0, 2])/2 + b = [1, 1, 2, 1]
    # c = σ(1)·tanh(2) = 0.7310586·0.9640276 = 0.7047606; h = σ(1)·tanh(c) = 0.7310586·0.6073808
    # x = 0: z = [4h/2, 1, 0, 0]; c = σ(1)·0.7047606 + σ(2h)·tanh(0) = 0.5152213
    # h = σ(0)·tanh(c) = 0.5·0.4740034
    np.testing.assert_allclose(outputs, [0.4440310, 0.2370017], rtol=1e-6)


def dense(layer, x, mask):
    """The formula with all experts at every step, and the importance of experts (eq 6)."""
    w = weights_of(layer)
    h = c = tf.zeros([B, U], tf.float64)
    importance, outputs = tf.zeros([E], tf.float64), []
    for t in range(S):
        real = mask[:, t, None]
        v = tf.concat([x[:, t], h], 1)
        logits = (v if layer.gate_from == "state" else x[:, t]) @ w["gate_kernel"]
        kept = logits >= tf.math.top_k(logits, 2)[0][:, -1:]
        gates = tf.nn.softmax(tf.where(kept, logits, -np.inf))
        importance += tf.reduce_sum(tf.where(real, gates, 0), 0)
        rows = v if layer.mixture_of == "both" else x[:, t]
        z = tf.einsum("be,bi,ein->bn", gates, rows, w["kernel"]) + w["bias"]
        if layer.mixture_of == "input":
            z += h @ w["recurrent_kernel"]
        i, f, g, o = tf.split(z, 4, 1)
        new_c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
        new_h = tf.sigmoid(o) * tf.tanh(new_c)
        h, c = tf.where(real, new_h, h), tf.where(real, new_c, c)
        outputs.append(h)
    mean = tf.reduce_mean(importance)
    return tf.stack(outputs, 1), 0.1 * tf.reduce_mean((importance - mean) ** 2) / mean**2


def gradients_of(function, layer):
    x = tf.constant(INPUTS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs, balancing = function(x)
        loss = tf.reduce_sum(outputs * tf.sin(outputs)) + tf.cast(balancing, tf.float64)
    variables = [weight.value for weight in layer.trainable_weights]
    return outputs, tf.cast(balancing, tf.float64), *tape.gradient(loss, [x, *variables])


def variants():
    """`make test` runs all options eagerly, the first with recomputation too."""
    for options, recompute, in_graph in itertools.product(OPTIONS, (False, True), (False, True)):
        quick = not in_graph and (not recompute or options == OPTIONS[0])
        yield pytest.param(options, recompute, in_graph, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("options", "recompute", "in_graph"), variants())
def test_equals_the_dense_formula(options, recompute, in_graph):
    layer = make(recompute=recompute, **options)

    def sparse(x):
        outputs = layer(x, mask=MASK, training=True)
        return outputs, layer.losses[0]

    expected = gradients_of(lambda x: dense(layer, x, MASK), layer)
    run = tf.function(lambda: gradients_of(sparse, layer), autograph=False)
    actual = run() if in_graph else gradients_of(sparse, layer)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-6)  # the loss is float32
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


# A gate that draws before its logits, and one whose bias changes before the backward pass.
@pytest.mark.parametrize(
    ("gate", "options"),
    [(Switch, {"jitter": 0.5, "seed": 1}), (BiasBalanced, {"k": 2, "bias_step": 9.0})],
)
def test_recomputation_gives_the_same_gradients(gate, options):
    def gradients(recompute):
        layer = make(gate(**options), recompute=recompute)
        return gradients_of(lambda x: (layer(x, training=True), 0.0), layer)

    for a, b in zip(gradients(False), gradients(True), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_no_steps():
    assert make(recompute=True)(INPUTS[:, :0], training=True).shape == (B, 0, U)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_one_expert_is_an_lstm(options):
    layer = MoELSTM(1, U, gate=Softmax(), dtype="float64", **options)
    layer.build((None, None, D))
    lstm = ProjectedLSTM(U, return_sequences=True, dtype="float64")
    lstm.build((None, None, D))
    kernel, recurrent = lstm.kernel.numpy(), lstm.cell.recurrent_kernel.numpy()
    if layer.mixture_of == "both":
        kernel = np.concatenate([kernel, recurrent])
    else:
        layer.recurrent_kernel.assign(recurrent)
    layer.experts.kernel.assign(kernel[None])
    expected = lstm(INPUTS, mask=tf.constant(MASK))
    np.testing.assert_allclose(layer(INPUTS, mask=MASK), expected, rtol=1e-12)


@pytest.mark.parametrize("options", OPTIONS[1:], ids=lambda options: "-".join(options.values()))
def test_steps_equal_a_call(options):
    layer = make(dtype="float32", **options)
    state, outputs = layer.initial_state(B), []
    for t in range(S):
        output, state = layer.step(INPUTS[:, t], state)
        outputs.append(output)
    np.testing.assert_allclose(np.stack(outputs, 1), layer(INPUTS), atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_is_causal(options):
    layer, changed = make(**options), INPUTS.copy()
    changed[:, 3:] += 1
    before, after = layer(INPUTS), layer(changed)
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert np.abs(before[:, 3:] - after[:, 3:]).min() > 0


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options.values()))
def test_recorded_routing(options):
    """The gate's decisions, read after the loop, give the outputs of the layer."""
    layer = make(**options)
    with recording_routings() as recordings:
        outputs = layer(INPUTS, mask=MASK)
    (recording,) = recordings
    np.testing.assert_array_equal(recording.positions, np.flatnonzero(MASK))
    np.testing.assert_array_equal(recording.shape, [B, S])
    assert float(tf.reduce_sum(recording.routing.load)) == 2 * MASK.sum()
    width = layer.experts.kernel.shape[1]
    rows = np.pad(recording.tokens, [[0, 0], [0, D + U]])[:, :width]
    # At the first step there is no state: the gate's tokens are x, and zeros or nothing.
    z = layer.experts(rows, recording.routing.assignments)[0] + layer.bias
    i, _, g, o = tf.split(z, 4)
    h = tf.sigmoid(o) * tf.tanh(tf.sigmoid(i) * tf.tanh(g))
    np.testing.assert_allclose(outputs[0, 0], h, rtol=1e-12)


def test_padding_is_not_counted():
    sums = []
    for padding in (0.0, 9.0):
        layer = make()
        layer(np.where(MASK[..., None], INPUTS, padding), mask=MASK, training=True)
        metrics = layer.expert_metrics.result()
        sums.append([float(metrics[name]) for name in sorted(metrics)])
    np.testing.assert_array_equal(*sums)


def test_noise_differs_by_step_and_trains():
    gate = NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1, seed=1)
    layer = MoELSTM(E, U, gate=gate)
    same = np.ones((2, 30, D))
    with tf.GradientTape() as tape:
        layer(same, training=True)
        loss = sum(layer.losses)
    load = float(layer.expert_metrics.result()["moe_max_over_mean_load"])
    # With zero kernels only the noise decides: 120 random assignments to 4 experts.
    assert 1 < load < 1.6
    # At zero logits the gate's own gradient is that of the balancing losses.
    gradients = tape.gradient(loss, [v.value for v in layer.gate.trainable_variables])
    assert all(np.any(gradient != 0) for gradient in gradients)


def test_metrics_and_losses_in_fit():
    layer = make(NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1), "float32", name="mixture")
    model = keras.Sequential([keras.Input((None, D)), layer])
    model.compile("adam", "mse", run_eagerly=True)  # tracing takes longer
    history = model.fit(INPUTS, np.zeros((B, S, U)), epochs=2, verbose=0).history
    assert {"mixture_cv_load", "mixture_dropped"} <= set(history)
    logs = model.evaluate(INPUTS, np.zeros((B, S, U)), verbose=0, return_dict=True)
    assert logs["mixture_max_over_mean_load"] >= 1


@pytest.mark.parametrize("options", [OPTIONS[0], OPTIONS[3]], ids=str)
def test_hierarchical_gate(options):
    gate = Hierarchical(2, NoisyTopK(k=1, load_weight=0.1), NoisyTopK(k=2))
    with pytest.warns(UserWarning, match="NoisyTopK with k=1"):
        layer = make(gate, **options)
    assert np.all(np.isfinite(layer(INPUTS, mask=MASK, training=True)))
    assert float(layer.losses[0]) > 0


def test_options_that_cannot_be_combined():
    gate = Hierarchical(2, NoisyTopK(k=2))
    with pytest.raises(ValueError, match=r"gate must not be hierarchical with gate_from='input'"):
        make(gate, gate_from="input")
    with pytest.raises(ValueError, match=r"recompute must be False with a hierarchical gate"):
        make(gate, recompute=True)
    with pytest.raises(ValueError, match=r"MoELSTM has no argument 'k', .*NoisyTopK\(k=1\)"):
        MoELSTM(E, U, k=1)
    with pytest.raises(ValueError, match=r"mixture_of must be one of .*'output'"):
        make(mixture_of="output")
    with pytest.raises(ValueError, match=r"gate_from must be one of .*'output'"):
        make(gate_from="output")


def test_gate_inputs():
    """A gate of inputs sees x_t by default; and the same as `gate_inputs` of another width."""
    layer = make(gate_from="input")
    gate_inputs = RNG.standard_normal((B, S, 3))
    wide = MoELSTM(E, U, gate=NoisyTopK(k=2, noise=False), gate_from="input", dtype="float64")
    wide.build((None, None, D), (None, None, 3))
    assert wide.gate.gate_kernel.shape == (3, E)
    np.testing.assert_array_equal(layer(INPUTS, gate_inputs=INPUTS), layer(INPUTS))
    outputs, state = wide(INPUTS, mask=MASK, gate_inputs=gate_inputs), wide.initial_state(B)
    first, state = wide.step(INPUTS[:, 0], state, gate_inputs=gate_inputs[:, 0])
    np.testing.assert_allclose(first, outputs[:, 0], rtol=1e-12)
    with pytest.raises(ValueError, match=r"gate_inputs of .* need gate_from='input', got"):
        make()(INPUTS, gate_inputs=gate_inputs)


class BySequence(Softmax):
    """A gate that needs the sequences of its tokens."""

    needs_sequences = True

    def route(self, inputs, training=False, groups=None, sequences=None):
        np.testing.assert_array_equal(sequences.sizes, MASK.sum(axis=1))
        return super().route(inputs, training, groups)


def test_gate_that_needs_sequences():
    assert make(BySequence(), gate_from="input")(INPUTS, mask=MASK).shape == (B, S, U)
    with pytest.raises(ValueError, match=r"gate_from must be 'input' for BySequence, which needs"):
        make(BySequence())


# Two of four experts. D = 4, U = 6: experts 10·24 or 4·24, recurrent kernel 6·24, gate 10·4 or 4·4.
OPERATIONS = [2 * 10 * 24 + 10 * 4, 2 * 10 * 24 + 4 * 4]
OPERATIONS += [2 * 4 * 24 + 6 * 24 + 10 * 4, 2 * 4 * 24 + 6 * 24 + 4 * 4]


@pytest.mark.parametrize(("options", "operations"), zip(OPTIONS, OPERATIONS, strict=True))
def test_operations(options, operations):
    assert make(**options).ops_per_timestep(D) == operations


def test_memory_with_recomputation():
    """float32, D = 4, U = 6, K = 2, E = 4. A position keeps x, 4 values. In the loop it keeps 7·6
    values of the cell, 10 + 2·4 of the gate, and for two experts rows of 10 and results of 24: 128.
    In segments of 5 of 25 steps it keeps a fifth of that, and of the states, 12 values.
    """
    kept = make(dtype="float32", recompute=True).kept_for_backward(D, 25)
    loop = 7 * 6 + 10 + KEPT_PER_LOGIT * 4 + 2 * (10 + 24)
    assert kept.total() == kept.always == 4 * 4 + 4 * (loop + 12) // 5
    assert make(dtype="float32").kept_for_backward(D, 25).total() == 4 * (4 + loop)
    at_once = make(dtype="float32", **OPTIONS[3]).kept_for_backward(D, 25)
    outside = 4 + (4 + KEPT_PER_LOGIT * 4) + 2 * (4 + 24)
    assert at_once.always == 4 * outside + 4 * (7 * 6 + 12) // 5
    assert at_once.total() == 4 * (outside + 7 * 6)


def test_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"mask must have the shape of the inputs"):
        make()(INPUTS, mask=MASK[:, :3])
    whole = np.array([True, False, True])  # of sequences
    padded = make()(INPUTS, mask=whole)
    np.testing.assert_array_equal(padded[1], np.zeros((S, U)))
