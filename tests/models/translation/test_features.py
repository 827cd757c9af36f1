"""What the features of the target depend on."""

import numpy as np
import pytest
from models.translation.small_model import GATES, REAL, SOURCE, TARGET, D, V, randomised


@pytest.mark.parametrize("groups", [None, 2])
@pytest.mark.parametrize("gate", GATES)
def test_features_do_not_depend_on_padding_or_other_rows(gate, groups):
    model = randomised(gate=gate, groups=groups)
    whole = model((SOURCE, TARGET)).numpy()
    assert whole.shape == (3, 4, D)
    padded = model((np.pad(SOURCE, [(0, 2), (0, 3)]), np.pad(TARGET, [(0, 2), (0, 2)]))).numpy()
    np.testing.assert_allclose(padded[:3, :4][REAL], whole[REAL], rtol=0, atol=1e-5)
    for row, (sources, targets) in enumerate([(3, 4), (1, 3), (4, 2)]):
        alone = model((SOURCE[row : row + 1, :sources], TARGET[row : row + 1, :targets])).numpy()
        np.testing.assert_allclose(alone[0], whole[row, :targets], rtol=0, atol=1e-5)
    order = [2, 0, 1]
    permuted = model((SOURCE[order], TARGET[order])).numpy()
    np.testing.assert_allclose(permuted[REAL[order]], whole[order][REAL[order]], rtol=0, atol=1e-5)
    # In training, the experts of Batchwise select tokens from the whole batch.
    if gate == "batchwise":
        training = model((SOURCE, TARGET), training=True).numpy()
        assert np.abs(training - whole)[REAL].max() > 1e-3


@pytest.mark.parametrize("gate", GATES)
def test_features_depend_on_past_targets_and_the_whole_source(gate):
    model = randomised(gate=gate)
    before = model((SOURCE, TARGET)).numpy()
    changed = TARGET.copy()
    changed[0, 2:] = [9, 10]
    after = model((SOURCE, changed)).numpy()
    np.testing.assert_allclose(after[0, :2], before[0, :2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(after[1:][REAL[1:]], before[1:][REAL[1:]], rtol=0, atol=1e-6)
    assert np.abs(after[0, 2:] - before[0, 2:]).max(axis=1).min() > 1e-3
    changed = SOURCE.copy()
    changed[2, 3] = 11  # the last one
    after = model((changed, TARGET)).numpy()
    assert np.abs(after[2, :2] - before[2, :2]).max(axis=1).min() > 1e-3
    np.testing.assert_allclose(after[:2][REAL[:2]], before[:2][REAL[:2]], rtol=0, atol=1e-6)


def test_source_and_target_share_the_embedding():
    model = randomised()
    with_words = [weight for weight in model.trainable_weights if V in weight.shape]
    assert [tuple(weight.shape) for weight in with_words] == [(V, D), (V, D), (V,)]
    before = model((SOURCE, TARGET)).numpy()
    changed = model.embedding.embeddings.numpy()
    changed[11] += 1  # occurs nowhere
    model.embedding.embeddings.assign(changed)
    np.testing.assert_allclose(model((SOURCE, TARGET)).numpy()[REAL], before[REAL], atol=1e-6)
    changed[6] += 1  # the source and a target word of sentence 1
    model.embedding.embeddings.assign(changed)
    after = model((SOURCE, TARGET)).numpy()
    differ = np.abs(after - before).max(axis=2) > 1e-4
    assert differ[1, :3].all() and not differ[[0, 2]][REAL[[0, 2]]].any()
