"""What people try that cannot work: every error names what was given and what would be right."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.gating import (
    Batchwise,
    ExpertChoice,
    Gate,
    Hash,
    Hierarchical,
    NoisyTopK,
    Switch,
    TopK,
)
from tfmoe.layers import MoE, MoELSTM, MultiGateMoE, Residual, SoftMoE

X = np.random.default_rng(0).normal(size=[6, 8]).astype("float32")
RAGGED = tf.RaggedTensor.from_row_lengths(X, [2, 4])
LAYERS = keras.layers


def called(layer, *inputs, **options):
    """Calls a layer on several inputs, one after the other."""
    for x in inputs or (X,):
        layer(x, **options)


# What somebody does, and two parts of the message: what was given, and what would be right.
ARGUMENTS = {
    "no hidden units": (lambda: MoE(8), "hidden_units", "MoE(num_experts, hidden_units)"),
    "no experts": (lambda: MoE(0, 4), "got 0", "num_experts must be an integer of at least 1"),
    "half an expert": (lambda: MoE(2.5, 4), "got 2.5", "num_experts must be an integer"),
    "a string": (lambda: MoE("8", 4), "got '8'", "num_experts must be an integer"),
    "negative width": (lambda: MoE(8, -1), "got -1", "hidden_units must be an integer of at least"),
    "k by position": (lambda: MoE(8, 4, 2), "got 2", "NoisyTopK(k=2)"),
    "k": (lambda: MoE(8, 4, k=2), "k=2", "gate=NoisyTopK(k=2)"),
    "top_k": (lambda: MoE(8, 4, top_k=2), "top_k=2", "gate=NoisyTopK(k=2)"),
    "k of a MoELSTM": (lambda: MoELSTM(8, 4, k=2), "k=2", "gate=NoisyTopK(k=2)"),
    "units": (lambda: MoE(8, 4, units=3), "units=3", "output_units=3"),
    "dropout": (lambda: MoE(8, 4, dropout=0.1), "dropout=0.1", "expert_dropout=0.1"),
    "a misspelled argument": (
        lambda: MoE(8, 4, expert_droput=0.1),
        "expert_droput=0.1",
        "did you mean 'expert_dropout'?",
    ),
    "an unknown argument": (lambda: MoE(8, 4, zzz=1), "zzz=1", "its arguments are num_experts, "),
    "a gate of a SoftMoE": (lambda: SoftMoE(8, 4, gate="top_k"), "gate='top_k'", "MoE(…, gate="),
    "activation": (lambda: MoE(8, 4, activation="rellu"), "got 'rellu'", "a Keras activation"),
    "PReLU": (
        lambda: MoE(8, 4, activation=LAYERS.PReLU()),
        "<PReLU name=",
        "a function without variables",
    ),
    "initializer": (
        lambda: MoE(8, 4, kernel_initializer="glorot"),
        "got 'glorot'",
        "kernel_initializer must be a Keras initializer",
    ),
    "capacity": (lambda: MoE(8, 4, capacity_factor=-1), "got -1", "a finite number above 0"),
    "priority": (lambda: MoE(8, 4, capacity_priority="last"), "got 'last'", "'position', 'choice'"),
    "metrics": (lambda: MoE(8, 4, metrics=["accuracy"]), "got ['accuracy']", "'summary', 'all'"),
    "all dropped": (lambda: MoE(8, 4, expert_dropout=1), "got 1", "at least 0 and below 1"),
    "a shared gate alone": (lambda: MoE(8, 4, shared_gate=True), "shared_experts=0", "be False"),
    "a built expert": (
        lambda: MoE(8, experts=keras.Sequential([keras.Input([8]), LAYERS.Dense(3, name="d")])),
        "which has 2",
        "keras.Sequential without an Input",
    ),
    "a class of experts": (
        lambda: MoE(8, experts=LAYERS.Dense),
        "Dense'>",
        "must be a Keras layer",
    ),
    "BatchNormalization": (
        lambda: MoE(8, experts=LAYERS.BatchNormalization()),
        "contain BatchNormalization",
        "use LayerNormalization",
    ),
    "two kinds of experts": (
        lambda: MoE(8, 4, experts=LAYERS.Dense(8)),
        "got 4",
        "hidden_units must be None",
    ),
    "tasks": (lambda: MultiGateMoE(0, 8, 4), "got 0", "tasks must be"),
}
GATES = {
    "too large a k": (lambda: MoE(2, 4, gate=NoisyTopK(k=4)), "got k=4", "k must be at most 2"),
    "no k": (lambda: NoisyTopK(k=0), "got 0", "k must be an integer of at least 1"),
    "a weight below 0": (
        lambda: NoisyTopK(load_weight=-1),
        "got -1",
        "must be a finite number",
    ),
    "a load loss without noise": (
        lambda: NoisyTopK(noise=False, load_weight=0.1),
        "load_weight",
        "importance_weight",
    ),
    "k of Switch": (lambda: Switch(k=2), "k=2", "TopK(k=2)"),
    "a class": (lambda: MoE(8, 4, gate=TopK), "class", "give an object, TopK()"),
    "a misspelled name": (lambda: MoE(8, 4, gate="topk"), "got 'topk'", "did you mean 'top_k'?"),
    "no name": (lambda: MoE(8, 4, gate={"k": 2}), "got {'k': 2}", "no 'name'"),
    "a misspelled setting": (
        lambda: MoE(8, 4, gate={"name": "noisy_top_k", "kk": 2}),
        "kk=2",
        "did you mean 'k'?",
    ),
    "another layer": (lambda: MoE(8, 4, gate=LAYERS.Dense(8)), "<Dense name=", "must be a Gate or"),
    "a gate alone": (lambda: NoisyTopK(k=2)(X), "no num_experts", "give the gate to a MoE layer"),
    "groups": (lambda: MoE(8, 4, groups=3), "groups=3", "possible values: 1, 2, 4, 8"),
    "groups twice": (
        lambda: MoE(8, 4, groups=2, gate=Hierarchical(2, "noisy_top_k")),
        "got 2",
        "groups must be None with gate=Hierarchical",
    ),
    "levels of levels": (
        lambda: Hierarchical(2, Hierarchical(2, "softmax")),
        "<Hierarchical name=",
        "primary must be a gate for a level",
    ),
    "a base class": (lambda: MoE(8, 4, gate=Gate()), "Gate", "must implement route"),
    "no ids": (lambda: called(MoE(8, 4, gate=Hash(9), name="m")), "of m", "gate_inputs=token_ids"),
    "ids that are no integers": (
        lambda: called(MoE(8, 4, gate=Hash(9), name="m"), gate_inputs=X[:, 0]),
        "got float32",
        "must be integers",
    ),
    "groups that are not passed on": (
        lambda: called(MoE(4, 4, gate=Forgetful(), groups=2)),
        "Forgetful.route",
        "must pass its argument groups on",
    ),
    "a branch": (
        lambda: fitted(Branch(name="m")),
        "branch of tf.cond",
        "call the layer outside of it",
    ),
    "a function": (
        lambda: fitted(Function(name="m")),
        "tf.function within the model",
        "call the layer outside of it",
    ),
    "a loss of another gate": (
        lambda: TopK(k=2, load_weight=0.1),
        "load_weight=0.1",
        "balance_weight=0.1",
    ),
    "a loop": (
        lambda: tf.function(LAYERS.RNN(Cell(Batchwise(k=2)), name="rnn"))(X[None]),
        "loop",
        "unroll=True",
    ),
}
INPUTS = {
    "one axis": (
        lambda: called(MoE(8, 4, name="m"), X[0]),
        "received: (8,)",
        "min_ndim=2",
    ),
    "strings": (lambda: called(MoE(8, 4, name="m"), tf.constant([["a"]])), "of m", "numbers"),
    "two tensors": (lambda: called(MoE(8, 4, name="m"), [X, X]), "got 2 of the", "be one tensor"),
    "ragged": (lambda: called(MoE(8, 4, name="m"), RAGGED), "RaggedTensor", "to_tensor()"),
    "sparse": (lambda: called(MoE(8, 4, name="m"), tf.sparse.from_dense(X)), "Sparse", "to_dense"),
    "an unknown width": (
        lambda: called(MoE(8, 4, name="m"), keras.Input([None, None])),
        "(None, None, None)",
        "known last dimension",
    ),
    "another width": (
        lambda: called(MoE(8, 4, name="m"), X, X[:, :4]),
        "shape (6, 4)",
        "to have value 8",
    ),
    "another mask": (
        lambda: called(MoE(8, 4, name="m"), X[None], mask=np.ones([1, 5], bool)),
        "got (1, 5)",
        "(1, 6)",
    ),
    "a mask of values": (
        lambda: called(MoE(8, 4, name="m"), X[None], mask=np.ones([1, 6, 8], bool)),
        "got (1, 6, 8)",
        "without the last axis, (1, 6)",
    ),
    "other rows of gate_inputs": (
        lambda: called(MoE(8, 4, name="m"), gate_inputs=X[:3]),
        "got (3,)",
        "leading axes of the inputs, (6,)",
    ),
    "training by position": (
        lambda: MoE(8, 4, name="m")(X, True),
        "argument value should be passed as a keyword argument: True",
        "keyword",
    ),
    "another shape in a residual": (
        lambda: called(Residual(MoE(4, experts=LAYERS.Dense(3), name="m"))),
        "m converts (6, 8) to (6, 3)",
        "keeps the shape",
    ),
    "steps": (lambda: called(MoELSTM(4, 8, name="m")), "got shape (6, 8)", "of m must have 3 dim"),
    "no expert but an activation": (
        lambda: called(MoE(8, experts=LAYERS.ReLU(name="relu"))),
        "'relu'",
        "no trainable weights",
    ),
}
USES = {
    "LoRA": (lambda: MoE(8, 4, name="m").enable_lora(2), "m does not support", "trainable=False"),
    "int8": (lambda: built().quantize("int8"), "mode='int8'", "--half"),
    "remat": (lambda: rematerialized(), "keras.RematScope", "recompute=True"),
    "export of a choice by experts": (
        lambda: keras.Sequential([keras.Input([8]), MoE(8, 4, gate=ExpertChoice())]).export("x"),
        "ExpertChoice",
        "cannot be exported",
    ),
}
WRONG = {**ARGUMENTS, **GATES, **INPUTS, **USES}


class Cell(keras.Layer):
    """A mixture as the cell of a recurrent layer."""

    state_size = 8

    def __init__(self, gate):
        super().__init__()
        self.mixture = MoE(4, 4, gate=gate)

    def build(self, shape):
        self.mixture.build(shape)

    def call(self, inputs, states, training=True):
        return self.mixture(inputs + states[0], training=True), states


class Forgetful(Gate):
    num_selected = 1

    def route(self, inputs, training=False, groups=None):
        weights, experts = tf.math.top_k(self.logits("gate_kernel", inputs, groups), 1)
        return self.routing_of_tokens(experts, weights)


class Branch(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.mixture = MoE(4, 4, gate=NoisyTopK(k=2))

    def call(self, x):
        return tf.cond(tf.reduce_sum(x) > 0, lambda: self.mixture(x, training=True), lambda: x)


class Function(Branch):
    def call(self, x):
        return tf.function(lambda x: self.mixture(x, training=True), autograph=False)(x)


def fitted(model):
    model.compile("sgd", "mse")
    model.fit(X, X, verbose=0)


def built():
    layer = MoE(8, 4)
    layer.build((None, 8))
    return layer


def rematerialized():
    with keras.RematScope(mode="full"):
        layer = MoE(8, 4)
    return layer(X)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", WRONG)
def test_message(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    use, given, right = WRONG[name]
    with pytest.raises((ValueError, TypeError, NotImplementedError)) as caught:
        use()
    message = str(caught.value)
    assert given in message
    assert right in message
