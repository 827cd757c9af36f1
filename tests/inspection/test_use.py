import keras
import numpy as np
import pytest

from tfmoe.gating import NoisyTopK, Softmax
from tfmoe.inspection import ExpertUse, expert_use, joint_counts
from tfmoe.layers import FeedForward, MoE
from tfmoe.models import LanguageModel, residual_blocks

# Two sentences: <S> 3 4 and <S> 3, padded with 0. Inputs are counted, not targets.
BATCH = np.array([[1, 3, 4], [1, 3, 0]], np.int32), np.array([[3, 4, 0], [3, 0, 0]], np.int32)
LOGITS = np.array(  # of words 0 to 4, for 3 experts
    [[9, 9, 9], [2, 1, 0], [9, 9, 9], [0, 1, 3], [0, 5, 4]], np.float32
)


def make_model(gate):
    """A model in which the gate logits of a token are the row of its word in `LOGITS`."""
    keras.utils.set_random_seed(0)
    layer = MoE(num_experts=3, hidden_units=2, gate=gate, name="moe")
    model = LanguageModel(5, 3, residual_blocks([layer]))
    model.build((None, None))
    model.embedding.embeddings.assign(LOGITS)
    layer.gate.weights[0].assign(np.eye(3, dtype=np.float32))  # W_g
    return model


def test_use_by_hand():
    """The words are 1, 3, 4, 1, 3. Word 1 goes to experts 0 and 1 with logits 2 and 1, word 3 to
    experts 2 and 1 with 3 and 1, word 4 to experts 1 and 2 with 5 and 4. The loads are 2, 5 and 3,
    whose sum is 5 tokens · k = 10.
    """
    (use,) = expert_use(make_model(NoisyTopK(k=2)), [BATCH]).values()
    np.testing.assert_array_equal(use.load, [2, 5, 3])
    one, two = (
        1 / (1 + np.exp(-1)),
        1 / (1 + np.exp(-2)),
    )  # gate values for logit differences of 1 and 2
    expected = [2 * one, 2 * (1 - one) + 2 * (1 - two) + one, 2 * two + (1 - one)]
    np.testing.assert_allclose(use.importance, expected, rtol=1e-6)
    np.testing.assert_allclose(use.importance.sum(), 5, rtol=1e-6)
    words = [[0, 2, 0, 0, 0], [0, 2, 0, 2, 1], [0, 0, 0, 2, 1]]
    np.testing.assert_array_equal(use.words.matrix(3, 5), words)


def test_summary_by_hand():
    """Loads 2, 5, 3: mean 10/3, variance 14/9, so CV √(14/9) / (10/3) = 0.3742; maximum 1.5 of the
    mean. Logit differences, for the entropy of gate values: 1 in three tokens, 2 in two tokens.
    """
    (use,) = expert_use(make_model(NoisyTopK(k=2)), [BATCH]).values()
    summary = use.summary()
    np.testing.assert_allclose(summary["cv_load"], 0.374166, rtol=1e-5)
    np.testing.assert_allclose(summary["max_over_mean_load"], 1.5)
    assert summary["unused_experts"] == 0
    entropy = -(0.2 * np.log2(0.2) + 0.5 * np.log2(0.5) + 0.3 * np.log2(0.3))
    np.testing.assert_allclose(summary["load_entropy"], entropy)
    one, two = 1 / (1 + np.exp(-1)), 1 / (1 + np.exp(-2))
    bits = [-p * np.log2(p) - (1 - p) * np.log2(1 - p) for p in (one, two)]
    np.testing.assert_allclose(summary["gate_entropy"], (3 * bits[0] + 2 * bits[1]) / 5, rtol=1e-6)


def test_unused_experts():
    """One of four experts has all tokens: mean 1, variance (9 + 3) / 4 = 3."""
    use = ExpertUse(np.array([4, 0, 0, 0]), np.array([2.0, 0, 0, 0]), joint_counts([0], [1], 2))
    summary = use.summary()
    assert (summary["unused_experts"], summary["max_over_mean_load"]) == (3, 4)
    assert summary["load_entropy"] == 0
    np.testing.assert_allclose(summary["cv_load"], 3**0.5)


def test_counts_of_batches_are_added():
    model = make_model(NoisyTopK(k=2))
    (once,) = expert_use(model, [BATCH]).values()
    other = np.array([[4]], np.int32), np.array([[0]], np.int32)
    (more,) = expert_use(model, [BATCH, other, BATCH]).values()
    np.testing.assert_array_equal(more.load, 2 * once.load + [0, 1, 1])
    assert more.words.counts.sum() == more.load.sum() == (5 + 1 + 5) * 2


def test_dense_gate():
    """A dense gate sends every token to every expert."""
    (use,) = expert_use(make_model(Softmax()), [BATCH]).values()
    np.testing.assert_array_equal(use.load, [5, 5, 5])
    np.testing.assert_allclose(use.importance.sum(), 5, rtol=1e-6)
    np.testing.assert_array_equal(use.words.matrix(3, 5), np.tile([0, 2, 0, 2, 1], (3, 1)))


def test_hierarchical():
    """2 groups of 2 experts and k = 2 at each level: every token goes to all 4 experts."""
    layer = MoE(num_experts=4, hidden_units=2, groups=2, gate=NoisyTopK(k=2), name="moe")
    model = LanguageModel(5, 3, residual_blocks([layer]))
    model.build((None, None))
    (use,) = expert_use(model, [BATCH]).values()
    np.testing.assert_array_equal(use.load, [5, 5, 5, 5])
    np.testing.assert_allclose(use.importance.sum(), 5, rtol=1e-6)


def test_names_of_mixtures():
    layers = [
        FeedForward(2, name="dense"),
        MoE(2, 2, gate=NoisyTopK(k=2), name="first"),
        MoE(3, 2, gate=NoisyTopK(k=2), name="second"),
    ]
    model = LanguageModel(5, 3, residual_blocks(layers))
    model.build((None, None))
    uses = expert_use(model, [BATCH])
    assert {name: len(use.load) for name, use in uses.items()} == {"first": 2, "second": 3}
    dense = LanguageModel(5, 3, residual_blocks([FeedForward(2)]))
    dense.build((None, None))
    assert expert_use(dense, [BATCH]) == {}


@pytest.mark.parametrize(
    ("at_least", "number", "expected"), [(1, 6, [3, 1, 2]), (2, 6, [3, 2]), (1, 1, [3]), (9, 6, [])]
)
def test_characteristic_words(at_least, number, expected):
    """Expert 0 receives word 1 in 1 of 1 occurrences, word 2 in 4 of 8, word 3 in 6 of 9, and word
    0 never: scores √1 = 1, √4 / 2 = 1, √6 · 2/3 = 1.63. Ties are broken by the lower id.
    """
    words = np.array([[0, 1, 4, 6], [5, 0, 4, 3]])
    experts, ids = np.nonzero(words)
    counts = joint_counts(experts, ids, 4, words[experts, ids])
    use = ExpertUse(words.sum(axis=1), words.sum(axis=1), counts)
    assert use.characteristic_words(0, number=number, at_least=at_least) == expected
