import contextlib

import keras
import numpy as np
import pytest

from tfmoe.distribute.shards import same_draws, sharded
from tfmoe.distribute.tensorflow_internals import ReplicaSeeds, ShardedVariable
from tfmoe.gating import NoisyTopK
from tfmoe.layers import MoE

D = 6
X = np.random.default_rng(0).standard_normal((8, D)).astype("float32")


def make_model(strategy, groups, built):
    """A model that is built here, or else by `fit`."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        keras.utils.set_random_seed(3)
        gate = NoisyTopK(k=2, noise=False, importance_weight=0.1)
        layers = [MoE(8, 5, gate=gate, groups=groups, name="moe"), keras.layers.Dense(2)]
        model = keras.Sequential(layers)
        if built:
            model.build((None, D))
        model.compile(keras.optimizers.Adam(0.01), "mse")
    return model


@pytest.mark.parametrize("groups", [pytest.param(None, marks=pytest.mark.slow), 4])
def test_fit_builds_the_same_variables_as_build(strategy_of, groups):
    specs, losses = [], []
    for built in (True, False):
        model = make_model(strategy_of(2), groups, built)
        assert model.built is built
        losses.append(model.fit(X, X[:, :2], verbose=0).history["loss"])
        variables = [*model.variables, *model.optimizer.variables]
        specs.append([(v.shape, type(v.value)) for v in variables])
    assert specs[0] == specs[1]
    assert ((8, D, 5), ShardedVariable) in specs[1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


def test_deferred_variables_use_their_contexts(strategy_of):
    with strategy_of(2).scope():
        with keras.StatelessScope():
            with sharded(unit=2):
                shard = keras.Variable("zeros", shape=(6, 3))
            plain = keras.Variable("zeros", shape=(6, 3))
            seeds = keras.random.SeedGenerator(7)
            with same_draws():
                same_seeds = keras.random.SeedGenerator(7)
        other = keras.Variable("zeros", shape=(6, 3))
    assert isinstance(shard.value, ShardedVariable)
    assert shard.value.bounds == [(0, 4), (4, 6)]  # 3 units of 2 rows: 2 units and 1
    assert isinstance(seeds.state.value, ReplicaSeeds)
    for variable in (plain, same_seeds.state, other):
        assert not isinstance(variable.value, ShardedVariable | ReplicaSeeds)


def test_no_effect_without_a_strategy():
    with keras.StatelessScope(), sharded():
        variable = keras.Variable("ones", shape=(2,))
    np.testing.assert_array_equal(variable.numpy(), [1, 1])
