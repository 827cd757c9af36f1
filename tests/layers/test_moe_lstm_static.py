"""`MoELSTM` with static shapes: in graphs for other runtimes, and compiled by XLA."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_operations
from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK, Switch
from tfmoe.layers import MoELSTM

B, S, D, U, E = 3, 5, 4, 6, 4
OPTIONS = [
    {"mixture_of": mixture, "gate_from": gate}
    for mixture, gate in itertools.product(("both", "input"), ("state", "input"))
]
GATES = {
    "noise": lambda: NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1),
    "capacity": lambda: Switch(jitter=0.1, capacity_factor=1.0),
    "batchwise": lambda: Batchwise(k=2, importance_weight=0.1),
    "hierarchical": lambda: Hierarchical(2, NoisyTopK(k=2, load_weight=0.1)),
}
INPUTS = np.random.default_rng(0).standard_normal((B, S, D)).astype("float32")
MASK = np.arange(S) < np.array([5, 2, 4])[:, None]


def make(gate="noise", **options):
    """A `MoELSTM` with random weights. Each draws the same numbers."""
    keras.utils.set_random_seed(1)
    layer = MoELSTM(E, U, gate=GATES[gate](), **options)
    layer.build((None, None, D))
    rng = np.random.default_rng(1)
    for weight in layer.trainable_weights:
        weight.assign(rng.standard_normal(weight.shape))
    return layer


def step(layer, training):
    """The outputs, the loss and its gradients."""
    kernels = [weight.value for weight in layer.trainable_weights]
    with tf.GradientTape() as tape:
        outputs = layer(INPUTS, mask=MASK, training=training)
        loss = tf.add_n([tf.reduce_sum(outputs**2), *layer.losses])
    gradients = tape.gradient(loss, kernels, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return outputs, loss, [tf.convert_to_tensor(gradient) for gradient in gradients]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_inference_for_other_runtimes(options):
    layer = make(**options)
    expected = layer(INPUTS, mask=MASK)
    with portable_operations():
        outputs = layer(INPUTS, mask=MASK)
    np.testing.assert_allclose(outputs, expected, atol=1e-6)


def cases():
    for gate, options in itertools.product(GATES, OPTIONS):
        if gate != "hierarchical" or options != {"mixture_of": "both", "gate_from": "input"}:
            yield pytest.param(gate, options, id=f"{gate}-{'-'.join(options.values())}")


@pytest.mark.slow
@pytest.mark.parametrize(("gate", "options"), cases())
def test_xla(gate, options):
    for training in (True, False):
        compiled = tf.function(step, jit_compile=True, autograph=False)
        results = compiled(make(gate, **options), training)
        expected = step(make(gate, **options), training)
        for result, value in zip(*map(tf.nest.flatten, (results, expected)), strict=True):
            np.testing.assert_allclose(result, value, rtol=1e-4, atol=1e-4)


def test_xla_has_no_recomputation():
    layer = make(recompute=True)
    compiled = tf.function(lambda: layer(INPUTS, training=True), jit_compile=True, autograph=False)
    with pytest.raises(ValueError, match=r"recompute of moe_lstm.* must be False with jit_compile"):
        compiled()
