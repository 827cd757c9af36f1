"""A small layer of every class in `tfmoe.layers`, with inputs. A test with the fixture `case` runs
for all of them; a test with another fixture of `FIXTURES` runs for a subset.

Axes: B batch (and experts), S steps, M source steps, D width.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import keras
import numpy as np
import pytest

from tfmoe import layers

B, S, M, D = 4, 3, 5, 6
RNG = np.random.default_rng(0)


# Names of arguments, by kind.
INTEGERS = {
    "attention_units",
    "depth",
    "head_units",
    "hidden_units",
    "num_experts",
    "num_heads",
    "num_key_value_heads",
    "num_sampled",
    "projection_units",
    "sliding_window",
    "slots_per_expert",
    "units",
    "vocabulary_size",
}
BOOLEANS = {
    "causal",
    "gated",
    "recompute",
    "residual",
    "return_sequences",
    "return_state",
    "shared_gate",
    "use_bias",
}
INITIALIZERS = {
    "bias_initializer",
    "kernel_initializer",
    "projection_initializer",
    "recurrent_initializer",
}
PENALTIES = {"kernel_regularizer", "bias_regularizer", "kernel_constraint", "bias_constraint"}


def array(*shape):
    return RNG.standard_normal(shape).astype("float32")


@dataclass(frozen=True)
class Case:
    """A layer under test.

    Attributes:
        make: function of the keyword arguments of every Keras layer that creates a small layer.
        inputs: the positional arguments of a call, NumPy arrays or lists of them.
        float32_outputs: indices of the flattened outputs that are float32 under every policy.
        idle: names of variables that a call does not use.
        is_sequence: whether it returns a vector for each step of its first input.
        is_loop: whether its call is a loop over the steps.
        reads_views: whether its gradient reads reshaped tensors that nothing else reads.
        ops: for a `Block`, its multiply-adds for a token.
        gate_ops: for a `Block`, the multiply-adds of gates.
    """

    make: Callable
    inputs: tuple
    float32_outputs: tuple = ()
    idle: tuple = ()
    is_sequence: bool = False
    is_loop: bool = False
    reads_views: bool = False
    ops: int = 0
    gate_ops: int = 0

    def call(self, layer, inputs=None, training=False):
        """Calls the layer and returns the flattened outputs."""
        inputs = self.inputs if inputs is None else inputs
        return keras.tree.flatten(layer(*inputs, training=training))

    @property
    def parameters(self):
        """The names of the constructor arguments, without those of every Keras layer."""
        return set(inspect.signature(type(self.make()).__init__).parameters) - {"self", "kwargs"}

    @property
    def integers(self):
        return sorted(self.parameters & INTEGERS)

    @property
    def booleans(self):
        return sorted(self.parameters & BOOLEANS)

    @property
    def initializers(self):
        return sorted(self.parameters & INITIALIZERS)

    @property
    def penalties(self):
        return sorted(self.parameters & PENALTIES)

    def changed(self, **changes):
        """A layer like that of `make`, with other values for some arguments."""
        layer = self.make()
        config = {**layer.get_config(), **changes}
        del config["name"]
        if "layer" in config:
            config["layer"] = keras.saving.deserialize_keras_object(config["layer"])
        return type(layer)(**config)

    def built(self, **arguments):
        """A layer that was called once."""
        layer = self.make(**arguments)
        self.call(layer)
        return layer

    def symbolic_inputs(self):
        return keras.tree.map_structure(lambda x: keras.Input(x.shape[1:]), self.inputs)

    def functional(self, layer):
        """A functional model of the first output, with a list of inputs."""
        inputs = self.symbolic_inputs()
        return keras.Model(keras.tree.flatten(inputs), self.call(layer, inputs)[0])

    @property
    def model_inputs(self):
        """The inputs of `functional` models."""
        return keras.tree.flatten(self.inputs)


def make_residual(dropout=0.2, **arguments):
    layer = layers.FeedForward(7, name="inner", dtype=arguments.get("dtype"))
    return layers.Residual(layer, "tanh", dropout, seed=3, norm="layer", **arguments)


CASES = {
    "Attention": Case(
        lambda **arguments: layers.Attention(7, **arguments),
        (array(B, D), array(B, M, 7), array(B, M, D)),
        float32_outputs=(1,),
        idle=("source_kernel", "scale"),  # `keys` uses them
    ),
    "AttentionLSTM": Case(
        lambda **arguments: layers.AttentionLSTM(7, 5, 4, **arguments),
        (array(B, S, D), array(B, M, D)),
        is_sequence=True,
        is_loop=True,
        ops=4 * (2 * D + 5) * 7 + 7 * 5,  # input, context and recurrence; the projection
    ),
    "CrossAttention": Case(
        lambda **arguments: layers.CrossAttention(4, 2, 3, use_bias=True, **arguments),
        (array(B, S, D), array(B, M, D)),
        is_sequence=True,
        reads_views=True,
        ops=2 * D * (4 + 2) * 3,  # queries and output; keys and values
    ),
    "Experts": Case(
        lambda **arguments: layers.Experts(B, 7, depth=2, use_bias=True, **arguments),
        (array(B, S, D),),
    ),
    "FeedForward": Case(
        lambda **arguments: layers.FeedForward(7, depth=2, use_bias=True, **arguments),
        (array(B, S, D),),
        is_sequence=True,
        ops=D * 7 + 7 * 7 + 7 * D,
    ),
    "MoE": Case(
        lambda **arguments: layers.MoE(4, 7, depth=2, use_bias=True, **arguments),
        (array(B, S, D),),
        is_sequence=True,
        ops=4 * (D * 7 + 7 * 7 + 7 * D) + 2 * D * 4,  # all four experts, and both gate matrices
        gate_ops=2 * D * 4,
    ),
    "MoELSTM": Case(
        lambda **arguments: layers.MoELSTM(3, 7, gate="switch", **arguments),
        (array(B, S, D),),
        is_sequence=True,
        is_loop=True,
        ops=(D + 7) * 4 * 7 + (D + 7) * 3,
        gate_ops=(D + 7) * 3,
    ),
    "MultiGateMoE": Case(
        lambda **arguments: layers.MultiGateMoE(2, 4, 7, depth=2, use_bias=True, **arguments),
        (array(B, S, D),),
        is_sequence=True,
    ),
    "ProjectedLSTM": Case(
        lambda **arguments: layers.ProjectedLSTM(7, 5, return_sequences=True, **arguments),
        (array(B, S, D),),
        is_sequence=True,
        is_loop=True,
        ops=4 * (D + 5) * 7 + 7 * 5,
    ),
    "ProjectedLSTMCell": Case(
        lambda **arguments: layers.ProjectedLSTMCell(7, 5, **arguments),
        (array(B, 4 * 7), [array(B, 5), array(B, 7)]),
    ),
    "Residual": Case(make_residual, (array(B, S, D),), is_sequence=True, ops=2 * D * 7),
    "SelfAttention": Case(
        lambda **arguments: layers.SelfAttention(
            4, 2, 2, use_bias=True, query_key_norm="rms", sliding_window=2, **arguments
        ),
        (array(B, S, D),),
        is_sequence=True,
        reads_views=True,
        ops=2 * D * (4 + 2) * 2,
    ),
    "SoftMoE": Case(
        lambda **arguments: layers.SoftMoE(4, 7, 2, depth=2, use_bias=True, **arguments),
        (array(B, S, D),),
        is_sequence=True,
        # One row of an expert; logits, slots and outputs, with 8 slots.
        ops=D * 7 + 7 * 7 + 7 * D + 3 * D * 8,
        gate_ops=D * 8,
    ),
    "VocabularySoftmax": Case(
        lambda **arguments: layers.VocabularySoftmax(7, num_sampled=3, seed=1, **arguments),
        (array(B, S, D),),
        float32_outputs=(0,),
        is_sequence=True,
    ),
}


# Layers with quick tests of their own.
SLOW = {"MultiGateMoE", "SoftMoE"}


def has_steps(layer):
    return isinstance(layer, layers.Block) and not layer.reads_later


FIXTURES = {
    "block": [name for name in CASES if issubclass(getattr(layers, name), layers.Block)],
    "case": list(CASES),
    "causal": [name for name, case in CASES.items() if getattr(case.make(), "is_causal", False)],
    "with_activation": [name for name, case in CASES.items() if "activation" in case.parameters],
    "with_booleans": [name for name, case in CASES.items() if case.booleans],
    "with_initializers": [name for name, case in CASES.items() if case.initializers],
    "with_integers": [name for name, case in CASES.items() if case.integers],
    "with_penalties": [name for name, case in CASES.items() if case.penalties],
    "with_one_input": [name for name, case in CASES.items() if len(case.inputs) == 1],
    "with_steps": [name for name, case in CASES.items() if has_steps(case.make())],
    "sequence": [name for name, case in CASES.items() if case.is_sequence],
}


def pytest_generate_tests(metafunc):
    for fixture in FIXTURES.keys() & set(metafunc.fixturenames):
        cases = [
            pytest.param(CASES[name], id=name, marks=pytest.mark.slow if name in SLOW else ())
            for name in FIXTURES[fixture]
        ]
        metafunc.parametrize(fixture, cases)


@pytest.fixture
def cases():
    return CASES
