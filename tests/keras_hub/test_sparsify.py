"""`sparsify` and `densify`: the results of KerasHub, with the selected experts alone."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_backbones import BACKBONES, inputs, keras_hub, mixtral, qwen3_5_moe, qwen3_moe, randomize

from tfmoe.inspection import mixtures_of, route_batches
from tfmoe.keras_hub import densify, route, sparsify
from tfmoe.keras_hub.registry import sparse_class_of
from tfmoe.layers import MoE
from tfmoe.layers.mixture_layer import layers_within

FAMILIES = pytest.mark.parametrize("family", BACKBONES)


def quick(*families):
    """Parametrizes a test by the families; those that are not named are slow."""
    others = sorted(set(BACKBONES) - set(families))
    slow = [pytest.param(family, marks=pytest.mark.slow) for family in others]
    return pytest.mark.parametrize("family", [*families, *slow])


TASKS = {
    "mixtral": keras_hub.models.MixtralCausalLM,
    "qwen_moe": keras_hub.models.QwenMoeCausalLM,
    "qwen3_moe": keras_hub.models.Qwen3MoeCausalLM,
    "qwen3_5_moe": keras_hub.models.Qwen3_5MoeCausalLM,
    "gpt_oss": keras_hub.models.GptOssCausalLM,
    "gemma4": keras_hub.models.Gemma4CausalLM,
}


@pytest.fixture(scope="module")
def backbones():
    """A function that returns the dense backbone of a family, always the same."""
    made = {}

    def get(family):
        if family not in made:
            made[family] = randomize(BACKBONES[family]())
        return densify(made[family]) if mixtures_of(made[family]) else made[family]

    return get


def step_of(model, batch):
    """The outputs, balancing losses and gradients of a training step."""
    with tf.GradientTape() as tape:
        outputs = model(batch, training=True)
        task_loss = tf.reduce_sum(tf.sin(3 * outputs))
        loss = tf.add_n([task_loss, *(30 * each for each in model.losses)])
    losses = [each.numpy() for each in model.losses]
    gradients = tape.gradient(loss, model.trainable_variables)
    return outputs, losses, [None if g is None else tf.convert_to_tensor(g) for g in gradients]


@FAMILIES
def test_outputs_losses_and_gradients(backbones, family):
    model = backbones(family)
    batch = inputs(model)
    outputs, losses, gradients = step_of(model, batch)
    assert sparsify(model) is model
    sparse_outputs, sparse_losses, sparse_gradients = step_of(model, batch)
    np.testing.assert_allclose(sparse_outputs, outputs, atol=1e-5)
    np.testing.assert_allclose(sparse_losses, losses, rtol=1e-5)
    assert len(losses) == (0 if family in ("gpt_oss", "gemma4") else 2)
    for variable, expected, actual in zip(
        model.trainable_variables, gradients, sparse_gradients, strict=True
    ):
        assert (expected is None) == (actual is None), variable.path
        if expected is not None:
            scale = 1 + tf.reduce_max(tf.abs(expected))
            np.testing.assert_allclose(
                actual / scale, expected / scale, atol=1e-5, err_msg=variable.path
            )


@FAMILIES
def test_densify_restores_the_layers(backbones, family):
    model = backbones(family)
    layers = [model, *layers_within(model)]
    before = [(type(layer), set(vars(layer)), list(layer.variables)) for layer in layers]
    outputs = model(inputs(model))
    sparsify(model)
    assert len(mixtures_of(model)) == 2
    assert [type(layer) for layer in layers] != [each[0] for each in before]
    assert densify(model) is model and not mixtures_of(model)
    for layer, (kind, attributes, variables) in zip(layers, before, strict=True):
        assert type(layer) is kind and set(vars(layer)) == attributes
        assert [id(v) for v in layer.variables] == [id(v) for v in variables]
    assert model.jit_compile is not None
    np.testing.assert_array_equal(model(inputs(model)), outputs)


@quick("mixtral")
def test_routing(backbones, family):
    """The selected experts are those with which the dense layer computes its outputs."""
    model = sparsify(backbones(family))
    batch = inputs(model)
    outputs = route(model, batch)
    by_name = route_batches(model, [batch])
    assert list(by_name) == list(mixtures_of(model))
    for name, layer in mixtures_of(model).items():
        experts, gates = (outputs[f"{name}_{key}"].numpy() for key in ("experts", "gates"))
        assert experts.shape == (3, 7, 2) and experts.dtype == np.int32
        assert (gates[..., 0] >= gates[..., 1]).all() and layer.num_selected == 2
        np.testing.assert_array_equal(by_name[name].experts, experts.ravel())
        np.testing.assert_allclose(by_name[name].gates, gates.ravel(), rtol=1e-5)
    # A change of an expert in KerasHub changes the outputs of the tokens that select it.
    kernel = layer.experts.kernels()[-1]
    densify(model)
    before, values = model(batch), kernel.numpy()
    kernel.assign(values * np.reshape([1, 1, 0, 1], [4, 1, 1]))
    changed = np.abs(model(batch) - before).max(axis=-1) > 1e-5
    kernel.assign(values)
    np.testing.assert_array_equal(changed, (experts == 2).any(axis=-1))


def test_operations():
    model = sparsify(BACKBONES["qwen_moe"](num_layers=1))
    (layer,) = mixtures_of(model).values()
    shared = 3 * 8 * 10 + 8
    assert layer.ops_per_timestep(8) == 2 * 3 * 8 * 6 + 8 * 4 + shared
    assert layer.gate_ops_per_timestep(8) == 8 * 4
    assert layer.kept_for_backward(8).recomputable == 4 * 2 * 4 * 6
    assert layer.experts.per_device(2) == 2


def test_fit_reports_losses_and_use_of_experts():
    model = randomize(qwen3_moe(num_layers=1))
    batch = inputs(model)
    targets = np.random.default_rng(0).standard_normal([3, 7, 8])
    start = model.get_weights()
    histories = []
    for is_sparse in (False, True):
        if is_sparse:
            sparsify(model, metrics="all")
        model.set_weights(start)
        model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=not is_sparse)
        histories.append(model.fit(batch, targets, epochs=2, verbose=0).history)
    dense, sparse = histories
    np.testing.assert_allclose(sparse["loss"], dense["loss"], rtol=1e-5)
    names = list(mixtures_of(model))
    assert set(sparse) - set(dense) >= {f"{name}_unused_experts" for name in names}
    assert sparse[f"{names[0]}_selected_per_token"] == [2, 2]


def test_fit_reports_a_summary_by_default():
    model = sparsify(randomize(qwen3_moe(num_layers=2)))
    assert len(mixtures_of(model)) == 2
    model.compile("sgd", "mse")
    names = {"moe_balancing_loss", "moe_max_over_mean_load", "moe_unused_experts"}
    assert set(model.fit(inputs(model), np.zeros([3, 7, 8]), verbose=0).history) == names | {"loss"}


def test_jit_compile(backbones):
    model = backbones("qwen3_moe")
    expected = model(inputs(model))
    sparse = sparsify(model)
    outputs = tf.function(lambda: sparse(inputs(model)), jit_compile=True, autograph=False)()
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


def test_without_metrics(backbones):
    model = sparsify(backbones("qwen3_moe"), metrics=False)
    assert model.metrics == []
    model.compile("sgd", "mse", run_eagerly=True)
    logs = model.train_on_batch(inputs(model), np.zeros([3, 7, 8]), return_dict=True)
    assert list(logs) == ["loss"]


def test_remat_scope():
    with keras.RematScope(mode="full"):
        model = sparsify(qwen3_moe(num_layers=1))
    with pytest.raises(ValueError, match=r"does not support keras\.RematScope: create the model"):
        model(inputs(model))


def test_router_jitter_noise():
    """KerasHub 0.32 fails here: it calls `ops.random`, which does not exist."""
    model = randomize(mixtral(router_jitter_noise=0.3, num_layers=1))
    batch = inputs(model)
    with pytest.raises(AttributeError, match="random"):
        model(batch, training=True)
    evaluated = model(batch)
    num_variables = len(model.variables)
    sparsify(model)
    np.testing.assert_allclose(model(batch), evaluated, atol=1e-5)
    assert len(model.variables) == num_variables
    draws = [model(batch, training=True) for _ in range(2)]
    assert np.abs(draws[0] - draws[1]).max() > 1e-3
    (layer,) = mixtures_of(model).values()
    factors = layer.prepared(tf.ones([500, 8]), training=True)
    assert 0.7 <= factors.numpy().min() < 0.71 and 1.29 < factors.numpy().max() <= 1.3


@pytest.mark.parametrize(
    "dtype", ["mixed_bfloat16", pytest.param("bfloat16", marks=pytest.mark.slow)]
)
@quick("qwen3_moe")
def test_half_precision(family, dtype):
    model = randomize(BACKBONES[family](dtype=dtype))
    batch = inputs(model)
    expected = tf.cast(model(batch), tf.float32)
    actual = tf.cast(sparsify(model)(batch), tf.float32)
    np.testing.assert_allclose(actual, expected, atol=0.05)
    assert np.abs(actual - expected).mean() < 0.004
    with tf.GradientTape() as tape:  # KerasHub's balancing loss fails here
        outputs = tf.cast(model(batch, training=True), tf.float32)
        loss = tf.add_n([tf.reduce_mean(outputs), *model.losses])
    kernel = next(iter(mixtures_of(model).values())).experts.kernels()[0]
    assert np.isfinite(tape.gradient(loss, kernel.value).numpy().astype("float32")).all()


@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize` method")
@pytest.mark.parametrize("change", ["enable_lora", "quantize"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_lora_and_quantization(change, order):
    model = qwen3_moe(num_layers=1)
    batch = inputs(model)
    if order == "after":
        sparsify(model)
    model.enable_lora(2) if change == "enable_lora" else model.quantize("int8")
    if change == "enable_lora":
        randomize(model)
    if order == "before":
        expected, actual = model(batch), sparsify(model)(batch)
    else:
        actual, expected = model(batch), densify(model)(batch)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_errors(backbones):
    with pytest.raises(ValueError, match="model must be a KerasHub model, got str"):
        sparsify("mixtral")
    dense = keras.Sequential([keras.Input([3]), keras.layers.Dense(2)], name="dense")
    with pytest.raises(
        ValueError, match="dense has no experts: sparsify changes models of Mixtral"
    ):
        sparsify(dense)
    with pytest.raises(ValueError, match="dense has no layer that sparsify changed"):
        densify(dense)
    with pytest.raises(ValueError, match=r"dense has no mixture of tfmoe: call sparsify"):
        route(dense, {"token_ids": tf.zeros([1, 1], tf.int32)})
    other = keras.Sequential([keras.Input([3]), MoE(2, 3, gate="switch")], name="other")
    with pytest.raises(
        ValueError, match=r"other has experts in MoE, .*which sparsify does not know"
    ):
        sparsify(other)
    with pytest.raises(ValueError, match="metrics must be"):
        sparsify(backbones("qwen3_moe"), metrics="no")
    model = sparsify(backbones("qwen3_moe"))
    with pytest.raises(ValueError, match=r"is sparse already: densify\(model\) undoes it"):
        sparsify(model)


def test_experts_without_their_router_remain_dense(backbones):
    model = backbones("gemma4")
    bank = next(layer for layer in layers_within(model) if sparse_class_of(layer) is not None)
    with pytest.raises(ValueError, match="has no router: give sparsify the decoder around it"):
        sparsify(bank)
    assert len(mixtures_of(sparsify(model))) == 2


def test_a_subclass_of_a_known_block_is_unknown():
    model = qwen3_moe(num_layers=1)
    block = next(layer for layer in layers_within(model) if sparse_class_of(layer) is not None)
    block.__class__ = type("MyBlock", (type(block),), {})
    with pytest.raises(ValueError, match=r"MyBlock.*which sparsify does not know"):
        sparsify(model)


def test_layers_that_are_not_built():
    kind = next(
        type(layer) for layer in layers_within(qwen3_moe(num_layers=1)) if sparse_class_of(layer)
    )
    layer = kind(8, 6, num_experts=4, top_k=2, norm_top_k_prob=True, name="block")
    with pytest.raises(ValueError, match="block must be built before sparsify"):
        sparsify(layer)
    layer.build((None, None, 8))
    assert list(mixtures_of(sparsify(layer))) == ["block"]


def task(family):
    """A causal language model without a preprocessor."""
    keras.utils.set_random_seed(0)
    model = TASKS[family](backbone=randomize(BACKBONES[family]()), preprocessor=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, sampler="greedy")
    return model


@pytest.mark.slow
@FAMILIES
def test_generate_and_fit_of_tasks(family):
    model = task(family)
    batch = inputs(model.backbone)
    prompt = {
        key: np.pad(batch[key][:2, :3], [[0, 0], [0, 4]]) for key in batch if key != "position_ids"
    }

    def generated():
        copies = {key: value.copy() for key, value in prompt.items()}
        return np.asarray(model.generate(copies, stop_token_ids=None)["token_ids"])

    start = model.get_weights()
    tokens = generated()
    loss = model.fit(batch, batch["token_ids"], epochs=2, verbose=0).history["loss"]
    model.set_weights(start)
    sparsify(model, metrics="all")
    assert model.generate_function is None and model.train_function is None
    np.testing.assert_array_equal(generated(), tokens)
    history = model.fit(batch, batch["token_ids"], epochs=2, verbose=0).history
    np.testing.assert_allclose(history["loss"], loss, rtol=1e-5)
    assert sum(name.endswith("cv_load") for name in history) == 2


@pytest.mark.slow
def test_qwen3_5_moe_with_an_attention_mask_of_three_axes():
    layer = next(
        layer for layer in layers_within(qwen3_5_moe(num_layers=1)) if sparse_class_of(layer)
    )
    x = tf.random.stateless_normal([2, 5, 8], [1, 2])
    mask = tf.linalg.band_part(tf.ones([2, 5, 5], tf.int32), -1, 0) * (
        tf.range(5)[None, :, None] != 2
    ).numpy().astype("int32")
    results = []
    for _ in range(2):
        outputs, logits = layer(x, attention_mask=mask, training=True)
        results.append([outputs, logits, *layer.losses])
        if len(results) == 1:
            sparsify(layer)
    for expected, actual in zip(*results, strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
