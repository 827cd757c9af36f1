"""Layers that cannot be experts, and wrong arguments of `MoE(experts=LAYER)`."""

import keras
import pytest
from keras import layers

from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE, Residual

D = 5
GATE = NoisyTopK(k=2, noise=False)
STATE = "a layer with a state or random numbers"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"experts": layers.Dense}, "experts must be a Keras layer or None, got <class"),
        ({"experts": "dense"}, "experts must be a Keras layer or None, got 'dense'"),
        ({"experts": {"class_name": "Dense", "config": 3}}, "experts must be"),
        (
            {"experts": keras.Sequential([keras.Input([D]), layers.Dense(2)], name="net")},
            "experts must be a layer that is not built, .* got 'net', which has 2",
        ),
        ({"experts": layers.BatchNormalization()}, f"not contain BatchNormalization, {STATE}"),
        ({"experts": layers.Dropout(0.1)}, f"not contain Dropout, {STATE}"),
        (
            {"experts": keras.Sequential([layers.Dense(2), layers.Dropout(0.1)], name="net")},
            f"not contain Dropout, {STATE}, got 'net' .*hidden_units=… with expert_dropout=…",
        ),
        ({"experts": layers.LSTM(2, dropout=0.1)}, f"not contain LSTMCell, {STATE}"),
        ({"experts": MoE(4, 3, name="inner")}, "not contain mixtures, got 'inner' with inner"),
        ({"hidden_units": 3}, "hidden_units must be None with experts=LAYER, .*, got 3"),
        ({"depth": 2}, "depth must be 1 with experts=LAYER, which is the whole expert, got 2"),
        ({"activation": "tanh"}, "activation must be 'relu' with experts=LAYER, .*, got 'tanh'"),
        ({"use_bias": True}, "use_bias must be False with experts=LAYER"),
        ({"gated": True}, "gated must be False with experts=LAYER"),
        ({"shared_experts": 1}, "shared_experts must be 0 with experts=LAYER, got 1"),
        (
            {"experts": None},
            r"hidden_units, .*, must be given: MoE\(num_experts, hidden_u",
        ),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        MoE(**{"num_experts": 4, "gate": GATE, "experts": layers.Dense(2), **arguments})


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            layers.Conv2D(2, 3),
            r"for examples of the shape \(5,\), .*min_ndim=4.*give the mixture g",
        ),
        (layers.ReLU(), "it has no trainable weights"),
        (layers.Dense(2, trainable=False), "it has no trainable weights"),
        (layers.Dense(2, activity_regularizer="l2"), "adds losses .*: give the mixture an activ"),
        (layers.SpectralNormalization(layers.Dense(2)), "it updates a state, .*vector_u"),
        (
            keras.Sequential([layers.Dense(2, trainable=False), layers.Dense(2)]),
            "it has a frozen weight or a state, .*kernel",
        ),
    ],
)
def test_layers_that_cannot_be_experts(layer, message):
    moe = MoE(4, gate=GATE, experts=layer)
    with pytest.raises(ValueError, match=message):
        moe.build((None, D))


def test_other_errors():
    lstm = MoE(4, gate=GATE, experts=layers.LSTM(3))
    lstm.build((None, 4, 2), (None, D))
    moe = MoE(4, gate=GATE, experts=layers.Conv2D(2, 3))
    with pytest.raises(ValueError, match=r"examples with known axes, got \(None, None, 3\)"):
        moe.build((None, None, None, 3), (None, D))
    with pytest.raises(
        NotImplementedError, match=r"'lstm.*': multiply-adds of a loop or a function"
    ):
        lstm.ops_per_timestep(D)
    with pytest.raises(
        NotImplementedError, match=r"what the layer 'dense.*' keeps .* is not known"
    ):
        MoE(4, gate=GATE, experts=layers.Dense(2)).kept_for_backward(D)
    with pytest.raises(ValueError, match="a block needs a layer that keeps the shape: moe"):
        Residual(MoE(4, gate=GATE, experts=layers.Dense(3), name="moe")).build((None, 3, D))
