"""`MoE(experts=LAYER)`: copies of a Keras layer as experts."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tfmoe.analysis.variables import parameters_of
from tfmoe.distribute import MixedStrategy
from tfmoe.gating import Batchwise, NoisyTopK, Softmax
from tfmoe.layers import MoE

RNG = np.random.default_rng(0)
B, D, E, K = 6, 5, 4, 2
GATE = NoisyTopK(k=K, noise=False)
GATE_X = RNG.standard_normal((B, D))


def vectors(dtype=None):
    return keras.Sequential(
        [
            layers.Dense(3, "tanh", dtype=dtype),
            layers.LayerNormalization(dtype=dtype),
            layers.Dense(2, dtype=dtype),
        ],
        name="net",
    )


def images(dtype=None):
    return keras.Sequential(
        [
            layers.Conv2D(2, 3, activation="tanh", dtype=dtype),
            layers.MaxPooling2D(dtype=dtype),
        ],
        name="net",
    )


def sequences(dtype=None):
    return layers.LSTM(3, dtype=dtype)


EXAMPLES = {vectors: (D,), images: (6, 8, 3), sequences: (4, 2)}


def case(make):
    """A mixture in float64 and its inputs."""
    moe = MoE(E, gate=GATE, experts=make("float64"), dtype="float64")
    x = RNG.standard_normal((B, *EXAMPLES[make]))
    moe.build(x.shape, GATE_X.shape)
    for weight in moe.trainable_weights:
        weight.assign(RNG.standard_normal(weight.shape))
    return moe, x


def test_by_hand():
    moe = MoE(2, gate=Softmax(), experts=layers.Dense(1, "relu"))
    moe.build((None, 2))
    kernel, bias = moe.experts.stacks
    kernel.assign([[[1], [2]], [[-1], [3]]])
    bias.assign([[0], [-4]])
    # The gate's weights are 0: each expert has the weight 1/2. (3, 1): relu(5), relu(-4).
    np.testing.assert_array_equal(moe(np.array([[3.0, 1.0], [0.0, 2.0]])), [[2.5], [3]])


def keep_top_k(logits):
    threshold = tf.sort(logits, axis=-1)[..., -K, None]
    return tf.nn.softmax(tf.where(logits >= threshold, logits, -np.inf))


def gradients_of(function, sources):
    with tf.GradientTape() as tape:
        tape.watch(sources)
        y = function()
        total = tf.reduce_sum(tf.sin(y))
    return [y, *tape.gradient(total, sources)]


@pytest.mark.parametrize(
    ("make", "compiled"),
    [
        (vectors, False),
        pytest.param(vectors, True, marks=pytest.mark.slow),
        (images, False),
        pytest.param(images, True, marks=pytest.mark.slow),
        (sequences, False),
        pytest.param(sequences, True, marks=pytest.mark.slow),
    ],
)
def test_equals_the_dense_formula(make, compiled):
    """Separate layers of Keras, all computed for all examples."""
    moe, x = case(make)
    experts = [make("float64") for _ in range(E)]
    for i, expert in enumerate(experts):
        expert(x)
        for weight, stack in zip(expert.trainable_weights, moe.experts.stacks, strict=True):
            weight.assign(stack[i])
    x, gate_x = tf.constant(x), tf.constant(GATE_X)
    gate_kernel = moe.gate.kernels["gate_kernel"].value

    def dense():
        weights = keep_top_k(gate_x @ gate_kernel)
        outputs = tf.stack([expert(x) for expert in experts], axis=1)
        return tf.einsum("be,be...->b...", weights, outputs)

    def sparse():
        return moe(x, gate_inputs=gate_x, training=True)

    for recompute in (False, True):
        moe.experts.recompute = recompute
        stacks = [stack.value for stack in moe.experts.stacks]
        sources = [x, gate_x, gate_kernel, *stacks]
        run = tf.function(lambda: gradients_of(sparse, sources)) if compiled else None  # noqa: B023
        y, dx, dgate, dkernel, *dstacks = run() if compiled else gradients_of(sparse, sources)
        weights = [weight.value for expert in experts for weight in expert.trainable_weights]
        expected = gradients_of(dense, [x, gate_x, gate_kernel, *weights])
        per_expert = np.reshape(np.arange(len(weights)), [E, -1]).T
        dweights = [np.stack([expected[4 + i] for i in indices]) for indices in per_expert]
        for a, b in zip([y, dx, dgate, dkernel, *dstacks], [*expected[:4], *dweights], strict=True):
            assert np.abs(b).max() > 1e-3
            np.testing.assert_allclose(tf.convert_to_tensor(a), b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("make", EXAMPLES)
def test_experts_without_rows(make):
    moe, x = case(make)
    expected = moe(x, gate_inputs=GATE_X).numpy()
    one = moe(x[:1], gate_inputs=GATE_X[:1])  # two of four experts have no rows
    np.testing.assert_allclose(one, expected[:1], rtol=0, atol=1e-12)
    with tf.GradientTape() as tape:
        none = moe(x[:0], gate_inputs=GATE_X[:0])
    assert none.shape == (0, *expected.shape[1:])
    for gradient in tape.gradient(none, moe.experts.trainable_weights):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("gate", [GATE, Batchwise(k=2)], ids=["noisy_top_k", "batchwise"])
@pytest.mark.parametrize("groups", [None, 2])
def test_dense_layers_equal_feed_forward_experts(gate, groups):
    options = {"gate": gate, "groups": groups, "dtype": "float64"}
    network = [layers.Dense(n, use_bias=False, dtype="float64") for n in (7, D)]
    network.insert(1, layers.ReLU(dtype="float64"))
    moe, other = MoE(E, experts=keras.Sequential(network), **options), MoE(E, 7, **options)
    for mixture in (moe, other):
        mixture.build((None, D))
    for weight, copy in zip(moe.weights, other.weights, strict=True):
        weight.assign(RNG.standard_normal(weight.shape))
        copy.assign(weight)
    results = [
        gradients_of(
            lambda m=m: m(GATE_X, training=True), [w.value for w in m.experts.trainable_weights]
        )
        for m in (moe, other)
    ]
    for a, b in zip(*results, strict=True):
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(tf.convert_to_tensor(a), b, rtol=0, atol=1e-10)


def test_shapes():
    moe, x = case(images)
    kernel, bias = moe.experts.stacks
    assert (kernel.shape, bias.shape) == ((E, 3, 3, 3, 2), (E, 2))
    assert kernel.name.startswith("conv2d") and kernel.name.endswith("_kernel")
    assert moe.compute_output_shape(x.shape, GATE_X.shape) == (B, 2, 3, 2)
    unbuilt = MoE(E, gate=GATE, experts=vectors())
    assert unbuilt.compute_output_shape((None, 7, D)) == (None, 7, 2)
    # An expert: 5·3 + 3 weights, 3 + 3 of the normalization, 3·2 + 2.
    assert parameters_of(unbuilt, (None, D)) == D * E + E * 32
    assert unbuilt.weights == []


@pytest.mark.parametrize(
    ("layer", "shape", "ops"),
    [
        (vectors(), (5,), 5 * 3 + 3 * 2),
        (layers.Conv2D(2, 3), (6, 8, 3), 4 * 6 * 2 * 3 * 3 * 3),
        (layers.Conv1D(4, 2), (5, 6), 4 * 4 * 2 * 6),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (6, 8, 3), 4 * 6 * 6 * 3 * 3),
        (layers.Conv2DTranspose(2, 3), (4, 5, 3), 4 * 5 * 3 * 3 * 3 * 2),
        (layers.EinsumDense("btd,dhk->bthk", (None, 2, 3)), (4, 5), 4 * 5 * 2 * 3),
        (layers.EinsumDense("...d,dk->...k", 3), (4, 5), 4 * 5 * 3),
    ],
)
def test_operations(layer, shape, ops):
    moe = MoE(E, gate=GATE, experts=layer)
    if len(shape) > 1:
        moe.build((None, *shape), (None, D))
    # K experts and the gate's matrix D·E.
    assert moe.ops_per_timestep(D) == K * ops + D * E


def test_every_axis_of_tokens_and_masks():
    moe, _ = case(vectors)
    x = RNG.standard_normal((2, 3, D))
    mask = np.array([[True, True, False], [True, False, False]])
    y = moe(x, mask=mask)
    np.testing.assert_array_equal(y[~mask], 0)
    np.testing.assert_allclose(y[mask], moe(x[mask]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", [None, 3])
def test_initial_values_are_those_of_the_layer(seed):
    keras.utils.set_random_seed(1)
    initializers = {
        "kernel_initializer": keras.initializers.HeNormal(seed),
        "bias_initializer": keras.initializers.RandomUniform(0, 1, seed),
    }
    moe = MoE(3, gate="softmax", experts=layers.Conv1D(50, 3, **initializers))
    moe.build((None, 8, 20), (None, 4))
    dense = layers.Conv1D(50, 3, **initializers)
    dense.build((None, 8, 20))
    for stack, weight in zip(moe.experts.stacks, dense.weights, strict=True):
        values = stack.numpy().reshape(3, -1)
        for value in values:
            assert value.std() == pytest.approx(weight.numpy().std(), rel=0.2)
        assert np.abs(np.corrcoef(values) - np.eye(3)).max() < 0.4


@pytest.mark.parametrize("seed", [None, 3])
def test_initializers_that_depend_on_the_whole_matrix(seed):
    kernel_initializer = keras.initializers.Orthogonal(seed=seed)
    moe = MoE(3, gate="softmax", experts=layers.Dense(4, kernel_initializer=kernel_initializer))
    moe.build((None, 4))
    matrices = moe.experts.stacks[0].numpy()
    np.testing.assert_allclose(matrices @ matrices.mT, np.tile(np.eye(4), [3, 1, 1]), atol=1e-5)
    assert np.abs(np.corrcoef(matrices.reshape(3, -1)) - np.eye(3)).max() < 0.9


def functional(make, **options):
    x, gate_x = keras.Input(EXAMPLES[make]), keras.Input([D])
    y = MoE(E, gate=GATE, experts=make(), name="moe", **options)(x, gate_inputs=gate_x)
    return keras.Model([x, gate_x], y)


def test_save_and_load(tmp_path):
    model = functional(images, recompute=True)
    x = [RNG.standard_normal((B, *EXAMPLES[images])), GATE_X]
    model.save(tmp_path / "m.keras")
    loaded = keras.saving.load_model(tmp_path / "m.keras")
    assert loaded.get_layer("moe").get_config() == model.get_layer("moe").get_config()
    expected = model(x).numpy()
    np.testing.assert_array_equal(loaded(x), expected)
    tf.train.Checkpoint(model=model.get_layer("moe")).write(str(tmp_path / "weights"))
    for weight in loaded.trainable_weights:
        weight.assign(tf.zeros_like(weight))
    checkpoint = tf.train.Checkpoint(model=loaded.get_layer("moe"))
    checkpoint.read(str(tmp_path / "weights")).assert_consumed()
    np.testing.assert_array_equal(loaded(x), expected)


def test_the_layer_is_a_description():
    layer = layers.Dense(2)
    first, second = (MoE(E, gate=GATE, experts=layer) for _ in range(2))
    for moe in (first, second):
        moe(GATE_X)
    assert not layer.built
    assert {id(v) for v in first.weights}.isdisjoint({id(v) for v in second.weights})
    assert len(first.weights) == 3 and len(first.trainable_weights) == 3
    restored = MoE.from_config(first.get_config())
    restored(GATE_X)
    assert restored.get_config() == first.get_config()


def test_in_half_precision():
    moe = MoE(E, gate=GATE, experts=vectors("mixed_bfloat16"), dtype="mixed_bfloat16")
    y = moe(GATE_X)
    assert y.dtype == tf.bfloat16
    assert {stack.dtype for stack in moe.experts.stacks} == {"float32"}
    exact = MoE(E, gate=GATE, experts=vectors())
    exact.build((None, D))
    for a, b in zip(exact.weights, moe.weights, strict=True):
        a.assign(b)
    np.testing.assert_allclose(tf.cast(y, tf.float32), exact(GATE_X), rtol=0, atol=0.05)


class InTheModel(keras.Model):
    """A model that Keras builds in a stateless scope."""

    def __init__(self):
        super().__init__()
        self.moe = MoE(E, gate=GATE, experts=layers.Dense(2))

    def call(self, inputs):
        return self.moe(inputs)


def test_built_by_fit():
    model = InTheModel()
    model.compile("sgd", "mse")
    model.fit(GATE_X, np.ones((B, 2)), verbose=0)
    assert len(model.trainable_weights) == 3
    assert all(np.all(np.isfinite(weight.numpy())) for weight in model.weights)


def trained(make, strategy):
    """Losses and weights of two steps of `fit`."""
    keras.utils.set_random_seed(1)
    with strategy.scope():
        model = functional(make)
        model.compile(keras.optimizers.SGD(0.5), "mse")
    rng = np.random.default_rng(5)
    x, gate_x = rng.standard_normal((12, *EXAMPLES[make])), rng.standard_normal((12, D))
    data = tf.data.Dataset.from_tensors(((x, gate_x), np.ones((12, *model.output_shape[1:]))))
    losses = model.fit(data, epochs=2, verbose=0, shuffle=False).history["loss"]
    return losses, model.get_weights()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "replicas"),
    [
        (vectors, 2),
        (images, 2),
        (images, 3),  # one device has no expert
        (sequences, 4),
    ],
)
def test_replicas_equal_one_device(make, replicas):
    losses, weights = trained(make, MixedStrategy([f"CPU:{i}" for i in range(replicas)]))
    expected_losses, expected_weights = trained(make, tf.distribute.get_strategy())
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-5)
    for a, b in zip(weights, expected_weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)
