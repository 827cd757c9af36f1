import keras
import numpy as np
import pytest
import tensorflow as tf
from gating.dense import dense_gates

from tfmoe.gating import ExpertChoice, Groups
from tfmoe.layers import MoE
from tfmoe.models import LanguageModel, residual_blocks
from tfmoe.serving.exported import check_exportable

pytestmark = pytest.mark.filterwarnings("ignore:ExpertChoice")
RNG = np.random.default_rng(0)
X, KERNEL = RNG.standard_normal((3, 5, 4)), RNG.standard_normal((4, 6))
# Three tokens, two experts.
PROBABILITY = np.array([[0.6, 0.4], [0.9, 0.1], [0.7, 0.3]])


def built_gate(num_experts=2, input_dim=2, **arguments):
    gate = ExpertChoice(num_experts=num_experts, dtype="float64", **arguments)
    gate.build((None, input_dim))
    kernel = gate.gate_kernel
    if num_experts == input_dim:
        kernel.assign(np.broadcast_to(np.eye(num_experts), kernel.shape))
    return gate


@pytest.mark.parametrize(
    ("capacity_factor", "expected"),
    [  # ⌈c·3/2⌉ tokens for each expert
        (0.5, [[0, 0.4], [0.9, 0], [0, 0]]),
        (1, [[0, 0.4], [0.9, 0], [0.7, 0.3]]),
        (2, PROBABILITY),
    ],
)
def test_by_hand(capacity_factor, expected):
    gate = built_gate(capacity_factor=capacity_factor)
    for training in (False, True):
        routing = gate(tf.constant(np.log(PROBABILITY)), training=training)
        np.testing.assert_allclose(dense_gates(routing, 3, 2), expected, rtol=1e-12)
        routed = np.any(np.array(expected) > 0, axis=1)
        measures = gate.measures(routing.sums)
        assert float(measures["unrouted"]) == pytest.approx(1 - routed.mean())
        assert float(measures["experts_per_token"]) == pytest.approx(np.count_nonzero(expected) / 3)


def test_sequences_by_hand():
    # Sequences of 2, 0 and 1 tokens: ⌈1·2/2⌉, 0 and ⌈1·1/2⌉ tokens for each expert.
    gate = built_gate(capacity_factor=1, group="sequence")
    sequences = Groups(tf.constant([2, 0, 1]))
    routing = gate(tf.constant(np.log(PROBABILITY)), sequences=sequences)
    expected = [[0, 0.4], [0.9, 0], [0.7, 0.3]]
    np.testing.assert_allclose(dense_gates(routing, 3, 2), expected, rtol=1e-12)
    np.testing.assert_array_equal(routing.load, [2, 2])
    one = gate(tf.constant(np.log(PROBABILITY)))
    np.testing.assert_allclose(dense_gates(one, 3, 2), expected, rtol=1e-12)


def chosen(x, kernel, capacity_factor):
    """Algorithm of Zhou et al. in NumPy for one group: `[T, E]` gate values."""
    logits = x @ kernel
    scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    num_taken = int(np.ceil(capacity_factor * len(x) / kernel.shape[1]))
    gates = np.zeros_like(scores)
    for i, column in enumerate(scores.T):
        best = np.argsort(-column, kind="stable")[:num_taken]
        gates[best, i] = column[best]
    return gates


@pytest.mark.parametrize("group", ["batch", "sequence"])
def test_a_mixture_equals_the_dense_formula(group):
    """Values and gradients, with padding."""
    gate = ExpertChoice(capacity_factor=1.5, group=group)
    layer = MoE(6, 7, gate=gate, dtype="float64")
    layer.build(X.shape)
    layer.gate.gate_kernel.assign(KERNEL)
    mask = np.arange(5) < np.array([5, 2, 3])[:, None]
    tokens = X[mask]
    if group == "batch":
        kept = chosen(tokens, KERNEL, 1.5) > 0
    else:
        kept = np.concatenate([chosen(x[m], KERNEL, 1.5) for x, m in zip(X, mask, strict=True)]) > 0
    w_in, w_out = layer.experts.kernels
    variables = [layer.gate.gate_kernel.value, w_in.value, w_out.value]

    def dense():
        weights = tf.nn.softmax(tokens @ variables[0]) * kept
        hidden = tf.nn.relu(tf.einsum("td,edh->teh", tokens, variables[1]))
        return tf.einsum("te,teh,ehd->td", weights, hidden, variables[2])

    results = []
    for function in (lambda: layer(X, mask=mask)[mask], dense):
        with tf.GradientTape() as tape:
            y = function()
            loss = tf.reduce_sum(tf.sin(y))
        results.append([y, *tape.gradient(loss, variables)])
    for actual, expected in zip(*results, strict=True):
        np.testing.assert_allclose(actual, tf.convert_to_tensor(expected), rtol=1e-9, atol=1e-12)


def test_groups_of_a_hierarchical_mixture():
    gate = built_gate(num_groups=2, capacity_factor=1)
    routing = gate(tf.constant(np.log(PROBABILITY)), groups=Groups(tf.constant([1, 2])))
    expected = np.zeros((3, 4))
    expected[[0, 0, 1, 2], [0, 1, 2, 3]] = [0.6, 0.4, 0.9, 0.3]
    np.testing.assert_allclose(dense_gates(routing, 3, 4), expected, rtol=1e-12)


def test_a_later_token_changes_an_earlier_one():
    """What the warning says."""
    layer = MoE(
        2,
        3,
        activation="linear",
        gate=ExpertChoice(capacity_factor=1, group="sequence"),
        dtype="float64",
    )
    layer.build((None, 2))
    layer.gate.gate_kernel.assign(np.eye(2))
    x = np.log(PROBABILITY)[None, :2]
    other = np.log(PROBABILITY)[None, [0, 2]] * [[[1], [0.1]]]
    assert np.abs(layer(x)[0, 0] - layer(other)[0, 0]).max() > 1e-3


@pytest.mark.filterwarnings("default:ExpertChoice")
def test_warning():
    for group, expected in (("batch", "its batch"), ("sequence", "its sequence")):
        with pytest.warns(UserWarning, match=f"ExpertChoice: .* of {expected}, outside of train"):
            built_gate(group=group)


def test_an_export_raises_an_error(tmp_path):
    layer = MoE(6, 3, gate="expert_choice", name="moe")
    model = keras.Sequential([keras.Input([4]), layer])
    for export in (model.export, lambda path: tf.saved_model.save(model, path)):
        with pytest.raises(ValueError, match="ExpertChoice cannot be exported: the experts"):
            export(str(tmp_path / "exported"))
    model.save(tmp_path / "model.keras")
    tf.train.Checkpoint(model).save(str(tmp_path / "checkpoint"))
    layer = MoE(8, 3, gate="expert_choice", groups=2, name="moe")
    model = LanguageModel(10, 8, residual_blocks([layer]))
    with pytest.raises(ValueError, match=r"moe: a model with the gate ExpertChoice cannot be exp"):
        check_exportable(model)
    check_exportable(LanguageModel(10, 8, residual_blocks([MoE(8, 3, gate="expert_threshold")])))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"capacity_factor": 0}, "capacity_factor must be"),
        ({"capacity_factor": 2.5}, "capacity_factor must be at most 2, the number of experts"),
        ({"group": "row"}, "group must be"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ExpertChoice(num_experts=2, **arguments)
