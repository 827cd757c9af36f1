import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.analysis.operations import ops_per_timestep
from tfmoe.gating import Hash
from tfmoe.gating.hash import balanced_experts, random_experts
from tfmoe.inspection.calls import MixtureCalls
from tfmoe.layers import MoE
from tfmoe.models import LanguageModel, residual_blocks

IDS = np.arange(1000)


def hash_in_python(value, num_experts, seed):
    """The finalizer of MurmurHash3 for 32 bits, with unlimited integers."""
    value = (value + (seed + 1) * 0x9E3779B9) % 2**32
    value ^= value >> 16
    value = value * 0x85EBCA6B % 2**32
    value ^= value >> 13
    value = value * 0xC2B2AE35 % 2**32
    return (value ^ value >> 16) % num_experts


def built_gate(num_experts, **arguments):
    gate = Hash(num_experts=num_experts, **arguments)
    gate.build((None, 3))
    return gate


def experts_of(gate, ids):
    _, experts, weights = gate(tf.constant(ids, tf.int32)).assignments.by_token()
    np.testing.assert_array_equal(weights, np.ones(len(ids)))
    return experts.numpy()


@pytest.mark.parametrize("seed", [0, 7, 2**31 - 1])
def test_random_hash(seed):
    ids = [0, 1, 2, 999, 2**31 - 1]
    expected = [hash_in_python(i, 7, seed) for i in ids]
    np.testing.assert_array_equal(experts_of(built_gate(7, seed=seed), ids), expected)


def test_the_random_hash_spreads_ids_and_depends_on_the_seed():
    first, second = (random_experts(tf.constant(IDS), 8, seed).numpy() for seed in (0, 1))
    for experts in (first, second):
        # 125 ids for each expert on average, with a standard deviation of 10.5.
        assert np.abs(np.bincount(experts, minlength=8) - 125).max() < 4 * 10.5
    assert np.mean(first == second) == pytest.approx(1 / 8, abs=0.05)


def test_balanced_hash_by_hand():
    # 9 to expert 0, 5 to 1, 4 to 1 (5 < 9), 3 to 0 (9 = 9: the lower index), 1 to 1, 0 to 1.
    np.testing.assert_array_equal(balanced_experts([5, 0, 9, 1, 3, 4], 2), [1, 1, 0, 1, 0, 1])
    gate = built_gate(2, counts=[5, 0, 9, 1, 3, 4])
    np.testing.assert_array_equal(experts_of(gate, [2, 2, 4, 5, 0]), [0, 0, 0, 1, 1])
    unknown = [6, 50, -1]
    np.testing.assert_array_equal(
        experts_of(gate, unknown), [hash_in_python(i, 2, 0) for i in unknown]
    )


def test_balanced_hash_of_zipfs_law_by_hand():
    # 1 to expert 0; 1/2, 1/3, 1/4 to expert 1 (the last at 5/6); 1/5 to 0 (1 < 13/12), 1/6 to 1.
    np.testing.assert_array_equal(
        experts_of(built_gate(2, vocabulary_size=6), range(6)), [0, 1, 1, 1, 0, 1]
    )


def test_the_balanced_hash_balances_tokens():
    loads = {}
    counts = 1 / (1 + IDS)
    for name, arguments in (("random", {}), ("balanced", {"vocabulary_size": 1000})):
        load = np.bincount(experts_of(built_gate(4, **arguments), IDS), counts)
        loads[name] = load.max() / load.mean()
    assert loads["balanced"] < 1.01 < 1.1 < loads["random"]


def test_a_mixture_computes_the_expert_of_the_id():
    layer = MoE(4, 6, gate=Hash(), dtype="float64")
    x = np.random.default_rng(0).standard_normal((2, 3, 5))
    ids = np.array([[4, 9, 7], [4, 1, 0]])
    y = layer(x, gate_inputs=ids)
    w_in, w_out = (kernel.numpy() for kernel in layer.experts.kernels)
    experts = np.vectorize(lambda i: hash_in_python(i, 4, 0))(ids)
    expected = np.einsum(
        "bsh,bshd->bsd", np.maximum(np.einsum("bsd,bsdh->bsh", x, w_in[experts]), 0), w_out[experts]
    )
    np.testing.assert_allclose(y, expected, rtol=1e-12)


def test_in_a_language_model():
    """In calls, in steps, in the count of operations and in the recorded routings."""
    layer = MoE(4, 6, gate=Hash(vocabulary_size=10), name="moe")
    model = LanguageModel(10, 8, residual_blocks([layer]))
    tokens = tf.constant([[1, 3, 6], [1, 9, 2]])
    features = model(tokens)
    state = model.initial_states(2)
    for step in range(3):
        output, state = model.step(tokens[:, step], state)
        np.testing.assert_allclose(output, features[:, step], atol=1e-6)
    assert layer.gate_ops_per_timestep(8) == 0 and layer.ops_per_timestep(8) == 2 * 8 * 6
    assert ops_per_timestep(model) == 2 * 8 * 6
    recorded = MixtureCalls(model, lambda recording: recording.routing.assignments.by_token()[1])
    expected = layer.gate.table[tokens.numpy().ravel()]
    np.testing.assert_array_equal(recorded(tokens)["moe"][0], expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocabulary_size": 0}, "vocabulary_size must be an integer of at least 1, got 0"),
        ({"vocabulary_size": 2, "counts": [1, 2]}, "counts must be None if vocabulary_size is"),
        ({"counts": [1, -2]}, r"counts must be a list of numbers .*, got \[1, -2\]"),
        ({"counts": []}, "counts must be a list of numbers"),
        ({"seed": 0.5}, "seed must be an integer"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Hash(**arguments)


def test_it_is_no_level_of_a_hierarchical_mixture():
    with pytest.raises(ValueError, match="primary must not need token ids, as Hash does"):
        MoE(4, 6, gate="hash", groups=2)


def test_keras_exports_to_other_runtimes_are_refused(tmp_path):
    ids = keras.Input([None], dtype="int32")
    features = keras.layers.Embedding(9, 5)(ids)
    layer = MoE(4, 6, gate=Hash(vocabulary_size=9), metrics=False)
    model = keras.Model(ids, layer(features, gate_inputs=ids))
    with pytest.raises(ValueError, match="Hash cannot be exported to ONNX or LiteRT"):
        model.export(tmp_path / "model.tflite", format="litert", verbose=False)
    assert not list(tmp_path.iterdir())
