"""Inspection of all kinds of Keras models."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from inspection.small_models import (
    ALL,
    EXPERTS,
    LOGITS,
    RNG,
    TOKENS,
    assert_routed,
    embedding,
    mixture,
    use_inputs_as_logits,
)

from tfmoe.inspection import (
    BatchRouter,
    NumberedBatch,
    TextRouter,
    co_selection,
    expert_use,
    mixtures_of,
    route_batches,
    route_text,
    routing_consistency,
    use_of_experts,
)
from tfmoe.layers import Residual
from tfmoe.models import LanguageModel, residual_blocks

REAL = ([1, 3, 4, 1, 3], [1, 1, 1, 2, 2], [0, 1, 2, 0, 1])


def sequential(**options):
    return keras.Sequential(
        [keras.Input([None], dtype="int32"), embedding(**options), mixture(), keras.layers.Dense(2)]
    )


def functional(**options):
    inputs = keras.Input([None], dtype="int32")
    features = embedding(**options)(inputs)
    features = keras.layers.Add()([features, mixture()(features)])
    return keras.Model(inputs, keras.layers.Dense(2)(features))


class Block(keras.layers.Layer):
    def __init__(self, inner, **kwargs):
        super().__init__(**kwargs)
        self.inner = inner
        self.supports_masking = True

    def call(self, inputs, mask=None):
        return inputs + self.inner(inputs, mask=mask)


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__()
        self.embedding = embedding(**options)
        self.blocks = [Block(Block(mixture(), name="inner"), name="outer")]

    def call(self, tokens):
        mask = self.embedding.compute_mask(tokens)
        features = self.embedding(tokens)
        for block in self.blocks:
            features = block(features, mask=mask)
        return features


def subclassed(**options):
    model = Subclassed(**options)
    model(TOKENS)
    return model


@pytest.mark.parametrize("make", [sequential, functional, subclassed])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("eager", [False, True])
def test_text(make, masked, eager):
    """Without a mask, all positions are routed; with a mask, those whose word is not 0."""
    model = use_inputs_as_logits(make(mask_zero=masked))
    model.compile("sgd", "mse", run_eagerly=eager)
    assert_routed(route_text(model, [(TOKENS, None)])["moe"], *(REAL if masked else ALL))
    # Row 1 is line 7, row 2 starts at position 2 of line 2.
    numbered = NumberedBatch(TOKENS, np.array([7, 2]), np.array([0, 2]))
    one, other = ([1, 3], [2, 2], [2, 3]), ([1, 3, 4], [7, 7, 7], [0, 1, 2])
    if not masked:
        one = [1, 3, 0], [2, 2, 2], [2, 3, 4]
    expected = [first + second for first, second in zip(one, other, strict=True)]
    assert_routed(route_text(model, [numbered])["moe"], *expected)


def test_batches_of_different_shapes_are_concatenated():
    batches = [(TOKENS, None), (TOKENS[:1, :2], None), (TOKENS[:, :2], None)]
    routed = TextRouter(use_inputs_as_logits(sequential(mask_zero=True)))(batches)["moe"]
    tokens, lines, positions = REAL
    assert_routed(
        routed,
        [*tokens, 1, 3, 1, 3, 1, 3],
        [*lines, 3, 3, 4, 4, 5, 5],
        [*positions, 0, 1, 0, 1, 0, 1],
    )


def test_batches_in_the_formats_of_fit_and_predict():
    model = use_inputs_as_logits(sequential())
    expected = route_text(model, [(TOKENS, None)])["moe"]
    data = tf.data.Dataset.from_tensor_slices((TOKENS.astype(np.int64), TOKENS))
    for batches in ([TOKENS], [(TOKENS, TOKENS, np.ones(2))], data.batch(1)):
        for one, other in zip(route_text(model, batches)["moe"], expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_use_of_words():
    """By `EXPERTS`, words 1, 3, 4, 1, 3 give loads of 2, 5 and 3."""
    (use,) = expert_use(use_inputs_as_logits(functional(mask_zero=True)), [(TOKENS, None)]).values()
    assert use.load.tolist() == [2, 5, 3]
    assert use.words.matrix(3, 5).tolist() == [[0, 2, 0, 0, 0], [0, 2, 0, 2, 1], [0, 0, 0, 2, 1]]


def test_mixtures_with_the_same_name():
    """Mixtures are named like their metrics; indistinguishable names are numbered."""
    inputs = keras.Input([3])
    one = Block(mixture(), name="one")
    two = Block(Block(mixture(), name="same"), name="two")
    alone = mixture("alone")
    model = keras.Model(inputs, alone(two(one(inputs))))
    assert list(mixtures_of(model)) == ["one_moe", "same_moe", "alone"]
    assert mixtures_of(model)["same_moe"] is two.inner.inner
    model.compile("sgd", "mse")
    x = RNG.standard_normal((4, 3)).astype(np.float32)
    logs = model.evaluate(x, x, verbose=0, return_dict=True)
    assert {f"{name}_cv_load" for name in mixtures_of(model)} <= set(logs)
    routings = route_batches(model, [x])
    assert list(routings) == ["one_moe", "same_moe", "alone"]
    tokens, experts, _ = (tensor.numpy() for tensor in one.inner.route(x).assignments.by_token())
    routed = routings["one_moe"]
    assert sorted(zip(routed.places, routed.experts, strict=True)) == sorted(
        zip(tokens, experts, strict=True)
    )
    same_names = LanguageModel(5, 3, residual_blocks([mixture(), mixture()]))
    assert list(mixtures_of(same_names)) == ["residual_moe_moe", "residual_moe_moe (2)"]
    without_metrics = keras.Sequential([Residual(mixture(metrics=False), name=n) for n in "ab"])
    without_metrics(x)
    assert list(route_batches(without_metrics, [x])) == ["moe", "moe (2)"]


def test_images():
    """Positions of images are numbered row by row."""
    model = keras.Sequential(
        [keras.Input([4, 4, 1]), keras.layers.Conv2D(3, 3), mixture(), keras.layers.Flatten(),
         keras.layers.Dense(2)]
    )  # fmt: skip
    x = RNG.standard_normal((5, 4, 4, 1)).astype(np.float32)
    batches = [(x[:2], None), (x[2:], None)]
    routed = route_batches(model, batches)["moe"]
    assert routed.num_experts == 3
    assert routed.lines.tolist() == np.repeat(range(1, 6), 4).tolist()
    assert routed.positions.tolist() == routed.tokens.tolist() == list(range(4)) * 5
    expected = model.layers[1].route(model.layers[0](x)).assignments
    tokens, experts, gates = (tensor.numpy() for tensor in expected.by_token())
    order = np.lexsort((-gates, tokens))
    assert routed.places.tolist() == tokens.tolist()
    assert routed.experts.tolist() == experts[order].tolist()
    np.testing.assert_allclose(routed.gates, gates[order], rtol=1e-5)
    use = use_of_experts(routed)
    assert use.load.tolist() == expected.counts.numpy().tolist()
    assert use.words.matrix(3, 4).sum() == 5 * 4 * 2
    assert co_selection(routed).pairs.counts.sum() == 5 * 4
    assert routing_consistency(routed, BatchRouter(model)(batches)["moe"]).same_experts == 1
    with pytest.raises(ValueError, match=r"moe processes .* shape \[2, 2, 2\].* got none: "):
        route_text(model, batches)


def test_token_ids_of_features_are_position_numbers():
    """`route_batches` differs from `route_text` in the token ids only."""
    model = use_inputs_as_logits(sequential(mask_zero=True))
    text = route_text(model, [(TOKENS, None)])["moe"]
    batches = route_batches(model, [(TOKENS, None)])["moe"]
    assert batches.tokens.tolist() == [0, 1, 2, 0, 1]
    for one, other in zip(text, batches._replace(tokens=text.tokens), strict=True):
        np.testing.assert_array_equal(one, other)


class Flat(keras.Model):
    """A model whose mixture processes the real tokens `[T, D]` or all tokens `[B·S, D]`."""

    def __init__(self, real):
        super().__init__()
        self.embedding, self.mixture, self.real = embedding(), mixture(), real

    def call(self, tokens):
        features = self.embedding(tokens)
        if self.real:
            return self.mixture(tf.boolean_mask(features, tokens != 0))
        return self.mixture(tf.reshape(features, [-1, 3]))


def test_mixture_with_flat_inputs():
    model = Flat(real=False)
    model(TOKENS)
    assert_routed(route_text(use_inputs_as_logits(model), [TOKENS])["moe"], *ALL)
    numbered = route_batches(model, [TOKENS, TOKENS])["moe"]
    assert numbered.lines.tolist() == list(range(1, 13))
    model = Flat(real=True)
    model(TOKENS)
    routed = route_batches(use_inputs_as_logits(model), [TOKENS])["moe"]
    assert (routed.lines.tolist(), routed.positions.tolist()) == ([1, 2, 3, 4, 5], [0] * 5)
    assert routed.experts.tolist() == EXPERTS[REAL[0]].ravel().tolist()
    with pytest.raises(ValueError, match=r"of shape \[5\].*got \[2, 3\]: pass tokens="):
        route_text(model, [TOKENS])


def pair_model():
    """A model of two texts, each with a mixture; the second text is added to the pooled first."""
    names = ("source", "target")
    inputs = {name: keras.Input([None], dtype="int32", name=name) for name in names}
    source, target = (
        mixture(f"moe_{name}")(embedding(mask_zero=True)(inputs[name])) for name in names
    )
    pooled = keras.layers.GlobalAveragePooling1D(keepdims=True)(source)
    return use_inputs_as_logits(keras.Model(inputs, keras.layers.Add()([pooled, target])))


def test_several_inputs_of_token_ids():
    """Inputs are distinguished by their shapes or by the argument `tokens`."""
    model = pair_model()
    different = {"source": TOKENS, "target": np.array([[3, 4], [4, 0]])}
    routings = route_text(model, [(different, None)])
    assert_routed(routings["moe_source"], *REAL)
    assert_routed(routings["moe_target"], [3, 4, 4], [1, 1, 2], [0, 1, 0])
    same = {"source": TOKENS, "target": np.array([[3, 4, 4], [4, 0, 0]])}
    with pytest.raises(
        ValueError, match=r"moe_\w+ processes .*\[2, 3\].*got \[2, 3\], \[2, 3\]: pass"
    ):
        route_text(model, [(same, None)])

    def tokens(name, inputs):
        return inputs[name.removeprefix("moe_")]

    routings = route_text(model, [(same, None)], tokens)
    assert_routed(routings["moe_source"], *REAL)
    assert_routed(routings["moe_target"], [3, 4, 4, 4], [1, 1, 1, 2], [0, 1, 2, 0])
    assert expert_use(model, [(same, None)], tokens)["moe_target"].load.sum() == 8


def test_language_model_within_another_model():
    inner = LanguageModel(5, 3, residual_blocks([mixture()]))
    inner.build((None, None))
    inner.embedding.embeddings.assign(LOGITS)
    inputs = keras.Input([None], dtype="int32")
    model = use_inputs_as_logits(keras.Model(inputs, keras.layers.Dense(1)(inner(inputs))))
    assert_routed(route_text(model, [TOKENS])["moe"], *REAL)


def test_without_mixtures_or_batches():
    dense = keras.Sequential([keras.Input([3]), keras.layers.Dense(1)])
    assert route_batches(dense, [np.ones((2, 3))]) == route_text(dense, [TOKENS]) == {}
    assert route_batches(sequential(), []) == {}
    with pytest.raises(
        ValueError, match=r"later must be built before .*model.build\(input_shape\)"
    ):
        route_batches(keras.Sequential([mixture()], name="later"), [])


def test_routing_does_not_change_metrics_and_weights():
    model = sequential()
    model.compile("sgd", "mse")
    model.fit(TOKENS, np.ones((2, 3, 2)), verbose=0)
    before = [variable.numpy() for variable in model.variables]
    metrics = [variable.numpy() for metric in model.metrics for variable in metric.variables]
    route_text(model, [TOKENS])
    after = [variable.numpy() for metric in model.metrics for variable in metric.variables]
    for one, other in zip([*before, *metrics], [*model.variables, *after], strict=True):
        np.testing.assert_array_equal(one, other)
