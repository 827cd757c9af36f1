import math
import warnings

import keras
import numpy as np
import pytest

from tfmoe.gating import NoisyTopK, Switch
from tfmoe.inspection.doctor import ExpertHealth
from tfmoe.layers import MoE


def model_of(*layers):
    model = keras.Sequential([keras.Input([3]), *layers])
    model.compile(keras.optimizers.SGD(0.5), "mse", run_eagerly=True)
    return model


def test_a_fit_that_collapses():
    """All tokens are the same, so that they go to the same 2 of 16 experts: the load varies by
    √(16/2 - 1). The second mixture has one expert, which is healthy. Every figure has the name of
    its layer.
    """
    keras.utils.set_random_seed(0)  # with other weights the loss can rise in epoch 2
    collapsing = MoE(16, 4, gate=NoisyTopK(2, 0, noise=False), metrics="all", name="first")
    model = model_of(collapsing, MoE(1, 4, gate=Switch(), metrics="all", name="second"))
    x = np.ones([64, 3], np.float32)
    health = ExpertHealth([x])
    with pytest.warns(UserWarning) as caught:
        model.fit(x, x, batch_size=64, epochs=2, verbose=0, callbacks=[health])
    messages = [str(each.message) for each in caught if "healthy:" in str(each.message)]
    assert [message.split(": ")[:3] for message in messages] == [
        ["epoch 1", "first", "collapse"],  # and not again in epoch 2
        ["epoch 1", "first", "small_expert_batch"],
    ]
    collapse, batch = health.findings
    assert collapse.figure.value == pytest.approx(math.sqrt(7), rel=1e-5)
    assert [str(change) for change in collapse.changes] == [
        "first.gate.importance_weight=0.1 (now 0)"
    ]
    assert batch.figure.value == 2 * 64 / 16
    assert [str(change) for change in batch.changes] == ["first.num_experts=2 (now 16)"]
    assert "first/gate_entropy" in [figure.name for figure, _ in health.checks]


def logs_of(load):
    return {"loss": 1.0, "first_cv_load": load, "first_cv_importance": load}


def begun(model):
    health = ExpertHealth()
    health.set_model(model)
    health.set_params({"epochs": 9})
    health.on_train_begin()
    return health


def test_epoch_by_epoch():
    gate = NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1)
    health = begun(
        model_of(MoE(16, 4, gate=gate, capacity_factor=9.0, metrics="all", name="first"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        health.on_epoch_end(0, {**logs_of(0.2), "first_max_over_mean_load": 1.2})
    # Of a note nothing warns.
    assert [each.kind for each in health.findings] == ["capacity_too_large"]
    with pytest.warns(UserWarning, match=r"^epoch 2: first: balancing_weak: first_cv_load is 1"):
        health.on_epoch_end(1, logs_of(1.0))
    with pytest.warns(UserWarning, match=r"^epoch 3: training: divergence: loss is nan") as caught:
        health.on_epoch_end(2, {**logs_of(3.0), "loss": math.nan})
    assert "Set optimizer.learning_rate=0.01 (now 0.5)" in str(caught[0].message)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        health.on_epoch_end(3, logs_of(0.2))
    assert health.findings == []
    health.on_train_begin()  # another fit warns anew
    with pytest.warns(UserWarning, match="epoch 1: first: balancing_weak"):
        health.on_epoch_end(0, logs_of(1.0))


def test_nothing_to_watch():
    for layer in (keras.layers.Dense(2), MoE(4, 2, metrics=None), MoE(4, 2)):
        with pytest.raises(ValueError, match="has no mixture that measures the use of its experts"):
            begun(model_of(layer))
