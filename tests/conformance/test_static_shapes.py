"""Requirements on every gate in every mixture: the path with static shapes gives the values of the
sorted path, and XLA compiles it, as `tfmoe.testing` checks it.
"""

import keras
import pytest
from conformance.gates import VARIANTS, case_of, make_mixture, parameters

from tfmoe import gating
from tfmoe.testing.compiled_checks import (
    COTANGENT,
    MASK,
    D,
    X,
    assert_close,
    compare_static_shapes,
    portable,
    xla,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:NoisyTopK with k=1", "ignore:ExpertChoice:UserWarning"
)

QUICK = [*((name, "flat") for name in gating.GATES), ("batchwise", "groups")]


# The answers of other gates depend on the batch, so exports refuse them.
DEPENDS_ON_BATCH = [name for name, gate in gating.GATES.items() if gate.depends_on_batch is True]
EXPORTABLE = [variant for variant in VARIANTS if variant[0] not in DEPENDS_ON_BATCH]


@pytest.mark.parametrize(
    ("capacity", "mask"),
    [(None, None), (None, MASK), (1.0, None), (1.0, MASK)],
    ids=["dropless", "dropless-padded", "capacity", "capacity-padded"],
)
@pytest.mark.parametrize("variant", parameters(VARIANTS, QUICK.__contains__))
def test_values_and_gradients(variant, capacity, mask):
    compare_static_shapes(case_of(variant), capacity, mask)


@pytest.mark.parametrize("variant", parameters(VARIANTS, [("noisy_top_k", "flat")].__contains__))
def test_xla(variant):
    xla(case_of(variant))


@pytest.mark.parametrize("variant", parameters(EXPORTABLE, QUICK.__contains__))
def test_inference_uses_operations_of_every_runtime(variant):
    portable(case_of(variant))


@pytest.mark.slow
def test_fit_evaluate_and_predict_with_xla(recwarn):
    results = []
    for jit_compile in (False, True):
        keras.utils.set_random_seed(2)
        inputs = keras.Input([None, D])
        layer = make_mixture(("noisy_top_k", "flat"), capacity_factor=1.5)
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit_compile)
        assert model.jit_compile is jit_compile
        model.optimizer.build(model.trainable_variables)
        y = COTANGENT[..., :2]
        history = model.fit(X, y, epochs=3, batch_size=2, shuffle=False, verbose=0).history
        evaluated = model.evaluate(X, y, verbose=0, return_dict=True)
        results.append((history, evaluated, model.predict(X, verbose=0)))
    assert results[0][0].keys() == results[1][0].keys()
    assert_close(results[1], results[0])
    assert not [warning for warning in recwarn if "jit_compile" in str(warning.message)]
