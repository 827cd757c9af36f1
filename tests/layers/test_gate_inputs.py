"""A gate that reads other inputs than the experts, token ids, or sequences."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import Gate, NoisyTopK, Softmax
from tfmoe.layers import MoE, MultiGateMoE, Residual
from tfmoe.models import LanguageModel, residual_blocks

RNG = np.random.default_rng(0)
X, GATE_X = RNG.standard_normal((2, 3, 4)), RNG.standard_normal((2, 3, 5))


@keras.saving.register_keras_serializable("test_gate_inputs")
class ById(Gate):
    """The expert of a token is its id modulo E."""

    num_selected = 1
    needs_token_ids = True
    kernel_names = ()

    def route(self, inputs, training=False, groups=None):
        assert inputs.dtype == tf.int32 and inputs.shape.rank == 1
        experts = (inputs % self.num_experts)[:, None]
        return self.routing_of_tokens(experts, tf.ones(tf.shape(experts)), groups)


class BySequence(Softmax):
    """A gate that keeps the sequences of its last call."""

    needs_sequences = True
    sequences = "not called"

    def route(self, inputs, training=False, groups=None, sequences=None):
        self.sequences = sequences
        return super().route(inputs, training, groups)


def dense(layer, x, gate_x):
    """`Σ_i softmax(v·W_g)_i E_i(x)`, computed for all experts."""
    weights = tf.nn.softmax(gate_x @ layer.gate.gate_kernel.numpy())
    kernels = [kernel.numpy() for kernel in layer.experts.kernels]
    hidden = tf.nn.relu(tf.einsum("bsd,edh->bseh", x, kernels[0]))
    return tf.einsum("bse,bseh,ehd->bsd", weights, hidden, kernels[1])


@pytest.mark.parametrize("groups", [None, 2])
def test_the_gate_reads_other_inputs_than_the_experts(groups):
    layer = MoE(4, 6, gate=Softmax(), groups=groups, dtype="float64")
    x, gate_x = tf.constant(X), tf.constant(GATE_X)
    layer.build(x.shape, gate_x.shape)
    for variable in layer.gate.trainable_variables:
        variable.assign(RNG.standard_normal(variable.shape))
    with tf.GradientTape() as tape:
        tape.watch(gate_x)
        y = layer(x, gate_inputs=gate_x)
        loss = tf.reduce_sum(y**2)
    assert np.any(tape.gradient(loss, gate_x))
    if groups is None:
        np.testing.assert_allclose(y, dense(layer, X, GATE_X), rtol=1e-12)
        assert layer.gate.gate_kernel.shape == (5, 4)
    routing = layer.route(x, gate_inputs=gate_x)
    np.testing.assert_allclose(tf.reduce_sum(routing.importance), 6)
    mask = np.array([[True, True, False], [True, False, False]])
    masked = layer(x, mask=mask, gate_inputs=gate_x)
    np.testing.assert_allclose(masked, np.where(mask[:, :, None], y, 0), rtol=1e-12)


def test_route_builds_a_layer_with_gate_inputs():
    layer, of_tasks = MoE(4, 6, gate="switch"), MultiGateMoE(2, 4, 6)
    assert layer.route(X, gate_inputs=GATE_X).assignments.num_tokens == 6
    assert len(of_tasks.route(X, gate_inputs=GATE_X)) == 2
    for mixture in (layer, *of_tasks.mixtures):
        assert mixture.gate.gate_kernel.shape == (5, 4)


def test_gate_inputs_in_a_model_that_is_saved(tmp_path):
    inputs, gate_inputs = keras.Input((3, 4)), keras.Input((3, 5))
    outputs = MoE(4, 6, gate=NoisyTopK(k=2), name="moe")(inputs, gate_inputs=gate_inputs)
    model = keras.Model([inputs, gate_inputs], outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    data = [X.astype("float32"), GATE_X.astype("float32")]
    np.testing.assert_array_equal(loaded.predict(data, verbose=0), model.predict(data, verbose=0))


def test_a_language_model_passes_token_ids_to_calls_and_steps():
    layer = MoE(4, 6, gate=ById(), name="moe")
    model = LanguageModel(10, 8, residual_blocks([layer]))
    tokens = tf.constant([[1, 3, 6], [1, 9, 0]])
    features = model(tokens)
    np.testing.assert_array_equal(model(tokens[1:, :2]), features[1:, :2])
    state = model.initial_states(2)
    for step in range(3):
        output, state = model.step(tokens[:, step], state)
        rows = slice(None) if step < 2 else slice(1)
        np.testing.assert_allclose(output[rows], features[rows, step], atol=1e-6)
    expert = layer.route(tf.ones([1, 3, 8]), gate_inputs=tokens[:1]).assignments.experts()
    np.testing.assert_array_equal(expert, [1, 2, 3])


def test_sequences():
    layer = MoE(4, 6, gate=BySequence())
    layer(X.astype("float32"))
    np.testing.assert_array_equal(layer.gate.sequences.sizes, [3, 3])
    np.testing.assert_array_equal(layer.gate.sequences.of_rows(), [0, 0, 0, 1, 1, 1])
    layer(X.astype("float32"), mask=np.array([[True, True, False], [True, False, False]]))
    np.testing.assert_array_equal(layer.gate.sequences.of_rows(), [0, 0, 1])
    layer(X[0].astype("float32"))
    assert layer.gate.sequences is None


def test_gate_inputs_of_a_block_without_a_gate():
    with pytest.raises(ValueError, match=r"residual_dense got gate_inputs, but dense has no gate"):
        Residual(keras.layers.Dense(4, name="dense"))(tf.ones([2, 4]), gate_inputs=tf.ones([2, 3]))


def test_bad_gate_inputs():
    layer = MoE(4, 6, gate=ById(), name="moe")
    with pytest.raises(ValueError, match=r"gate_inputs of moe are missing: its gate, ById"):
        layer(X)
    with pytest.raises(ValueError, match=r"gate_inputs of moe must be integers.* float32"):
        layer(X, gate_inputs=tf.ones([2, 3]))
    with pytest.raises(ValueError, match=r"leading axes of the inputs, \(2, 3\), got \(3, 2\)"):
        layer(X, gate_inputs=tf.ones([3, 2], tf.int32))
    with pytest.raises(ValueError, match=r"leading axes of the inputs, \(2, 3\), got \(2,\)"):
        MoE(4, 6, name="other")(X, gate_inputs=tf.ones([2, 5]))
    with pytest.raises(ValueError, match="primary must not need token ids, as ById does"):
        MoE(4, 6, gate=ById(), groups=2)
    with pytest.raises(ValueError, match="secondary must not need the sequences"):
        MoE(4, 6, gate=BySequence(), groups=2)
