"""Properties of assignments and of their exchange, for random assignments.

Axes: T tokens, E experts, K experts per token, D model, R replicas.

All values are small integers, so float32 sums are exact in any order and results must be equal.
"""

import functools
from typing import NamedTuple

import hypothesis
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies
from hypothesis.extra.numpy import arrays

from tfmoe.distribute import collectives
from tfmoe.distribute.exchange import AllToAll, Local, exchange
from tfmoe.distribute.shards import shard_bounds
from tfmoe.ops.assignments import assign_mask, assign_tokens, drop, sort_by_token

E, D, MAX_TOKENS = 5, 2, 20  # with four replicas, one has one expert and one has none
KINDS = ("fixed", "varying")  # number of experts per token
DROPPING = (False, True)
LOCAL = 1  # replicas without an exchange between devices
FEW = hypothesis.settings(max_examples=50, deadline=None, derandomize=True)


class Example(NamedTuple):
    """A batch and the decisions of a gate.

    Attributes:
        tokens: `[T, D]` float32.
        weights: `[T, E]` float32, also for experts that are not selected.
        experts: `[T, K]` int32, distinct within a row except for E, which means no expert.
        kept: `[T, E]` bool, False where an assignment is dropped.
        factors: `[E]` float32: expert e multiplies its rows by `factors[e]`.
        cotangents: `[T, D]` float32, the gradient of the loss with respect to the outputs.
    """

    tokens: np.ndarray
    weights: np.ndarray
    experts: np.ndarray
    kept: np.ndarray
    factors: np.ndarray
    cotangents: np.ndarray


SIGNATURE = Example(
    tokens=tf.TensorSpec([None, D]),
    weights=tf.TensorSpec([None, E]),
    experts=tf.TensorSpec([None, None], tf.int32),
    kept=tf.TensorSpec([None, E], tf.bool),
    factors=tf.TensorSpec([E]),
    cotangents=tf.TensorSpec([None, D]),
)


class Result(NamedTuple):
    """The results of a mixture of linear experts.

    Attributes:
        outputs: `[T, D]`.
        outputs_of_kept: `[T, D]`, from the rows of `dispatch_kept`.
        num_experts: `[T]`, the number of experts that compute each token.
        counts: `[E]` int32, the rows of each expert.
        tokens: the gradient of `Example.tokens`.
        weights: the gradient of `Example.weights`.
        factors: the gradient of `Example.factors`.
    """

    outputs: tf.Tensor
    outputs_of_kept: tf.Tensor
    num_experts: tf.Tensor
    counts: tf.Tensor
    tokens: tf.Tensor
    weights: tf.Tensor
    factors: tf.Tensor


def integers(shape):
    return arrays(np.float32, shape, elements=strategies.integers(-8, 8))


@strategies.composite
def examples(draw):
    num_tokens = draw(strategies.integers(0, MAX_TOKENS))
    k = draw(strategies.integers(1, E))
    # An expert occurs at most once per token; E (no expert) can occur several times.
    row = strategies.lists(
        strategies.integers(0, E),
        min_size=k,
        max_size=k,
        unique_by=lambda expert: expert if expert < E else object(),
    )
    rows = draw(strategies.lists(row, min_size=num_tokens, max_size=num_tokens))
    return Example(
        tokens=draw(integers((num_tokens, D))),
        weights=draw(integers((num_tokens, E))),
        experts=np.array(rows, np.int32).reshape(num_tokens, k),
        kept=draw(arrays(bool, (num_tokens, E))),
        factors=draw(integers(E)),
        cotangents=draw(integers((num_tokens, D))),
    )


def bounds_of(replicas):
    """A strategy for the `[R + 1]` fractions at which the batch is divided over the replicas."""
    inner = strategies.lists(strategies.floats(0, 1), min_size=replicas - 1, max_size=replicas - 1)
    return inner.map(lambda fractions: [0.0, *sorted(fractions), 1.0])


def assign(example, kind, dropping):
    """Returns the `Assignments` of an example."""
    if kind == "fixed":
        weights = tf.gather(
            tf.pad(example.weights, [[0, 0], [0, 1]]), example.experts, batch_dims=1
        )
        assignments = assign_tokens(example.experts, weights, E)
    else:
        selected = tf.reduce_any(tf.one_hot(example.experts, E, True, False, dtype=tf.bool), axis=1)
        assignments = assign_mask(selected, example.weights)
    if not dropping:
        return assignments
    num_dropped = tf.size(assignments.tokens) - assignments.num_kept()
    experts = tf.pad(assignments.experts(), [[0, num_dropped]])
    pairs = tf.stack([assignments.tokens, experts], axis=1)
    computed = tf.range(tf.size(assignments.tokens)) < assignments.num_kept()
    return drop(assignments, tf.gather_nd(example.kept, pairs) & computed)


def run_mixture(example, kind, dropping, replicas):
    """Computes the `Result` of a replica, or of one device."""
    begin, end = shard_bounds(E, replicas)[collectives.replica_id()]
    factors = example.factors[begin:end]
    with tf.GradientTape() as tape:
        tape.watch([example.tokens, example.weights, factors])
        dispatcher = exchange(assign(example, kind, dropping))
        assert isinstance(dispatcher, Local if replicas == LOCAL else AllToAll)
        rows, kept = dispatcher.dispatch(example.tokens), dispatcher.dispatch_kept(example.tokens)
        row_factors = tf.gather(factors, tf.repeat(tf.range(end - begin), dispatcher.counts))[
            :, None
        ]
        num_unused = tf.shape(rows)[0] - tf.reduce_sum(dispatcher.counts)
        outputs = dispatcher.combine(rows * tf.pad(row_factors, [[0, num_unused], [0, 0]]))
        outputs_of_kept = dispatcher.combine(kept * row_factors)
        loss = tf.reduce_sum(outputs * example.cotangents)
    gradients = tape.gradient(loss, [example.tokens, example.weights, factors])
    return Result(
        outputs,
        outputs_of_kept,
        dispatcher.sum_by_token(tf.ones([tf.reduce_sum(dispatcher.counts)])),
        dispatcher.counts,
        *map(tf.convert_to_tensor, gradients),
    )


@functools.cache
def traced(strategy, kind, dropping):
    """Traces `run_mixture` on the replicas of a strategy, or on one device if it is `None`.

    Returns:
        A function of an `Example` and of the `[R + 1]` token indices at which its batch is divided.
    """
    replicas = LOCAL if strategy is None else strategy.num_replicas_in_sync

    def run_replica(example, bounds):
        replica = collectives.replica_id()
        rows = slice(bounds[replica], bounds[replica + 1])
        shared = {"factors": example.factors}
        parts = {name: x[rows] for name, x in example._asdict().items() if name not in shared}
        return run_mixture(Example(**parts, **shared), kind, dropping, replicas)

    @tf.function(input_signature=[SIGNATURE, tf.TensorSpec([replicas + 1], tf.int32)])
    def run(example, bounds):
        if strategy is None:
            return run_replica(example, bounds)
        results = strategy.run(run_replica, args=(example, bounds))
        return [
            tf.nest.map_structure(
                lambda value, r=r: strategy.experimental_local_results(value)[r], results
            )
            for r in range(replicas)
        ]

    return run


def on_one_device(example, kind, dropping):
    result = traced(None, kind, dropping)(example, [0, len(example.tokens)])
    return Result(*(value.numpy() for value in result))


def pairs_of(example, dropping):
    """`[T, E]` bool: whether an expert computes a token."""
    pairs = (example.experts[:, :, None] == np.arange(E)).any(axis=1)
    return pairs & example.kept if dropping else pairs


def check_equal(actual, expected):
    for name, x, y in zip(Result._fields, actual, expected, strict=True):
        np.testing.assert_array_equal(x, y, err_msg=name)


@pytest.mark.parametrize("dropping", DROPPING)
@pytest.mark.parametrize("kind", KINDS)
@FEW
@hypothesis.given(example=examples())
def test_identity_experts_multiply_a_token_by_its_weights(kind, dropping, example):
    assignments = assign(example, kind, dropping)
    computed = tf.range(tf.size(assignments.tokens)) < assignments.num_kept()
    rows = assignments.dispatch(tf.constant(example.tokens))
    outputs = assignments.combine(tf.where(computed[:, None], rows, 0))
    weights = np.where(pairs_of(example, dropping), example.weights, 0)
    np.testing.assert_array_equal(outputs, weights.sum(1, keepdims=True) * example.tokens)


@pytest.mark.parametrize("dropping", DROPPING)
@pytest.mark.parametrize("kind", KINDS)
@FEW
@hypothesis.given(example=examples())
def test_assignments_sorted_by_token_and_by_expert(kind, dropping, example):
    assignments = sort_by_token(assign(example, kind, dropping))
    pairs = pairs_of(example, dropping)
    tokens, experts, weights = (values.numpy() for values in assignments.by_token())
    assert sorted(zip(tokens, experts, strict=True)) == [*zip(*pairs.nonzero(), strict=True)]
    assert (np.diff(tokens) >= 0).all()
    np.testing.assert_array_equal(weights, example.weights[tokens, experts])
    # Sorted by expert, then by token.
    expected_experts, expected_tokens = pairs.T.nonzero()
    kept = assignments.num_kept().numpy()
    np.testing.assert_array_equal(assignments.experts(), expected_experts)
    np.testing.assert_array_equal(assignments.tokens[:kept], expected_tokens)
    np.testing.assert_array_equal(assignments.counts, pairs.sum(axis=0))


@pytest.mark.parametrize("dropping", DROPPING)
@pytest.mark.parametrize("kind", KINDS)
@FEW
@hypothesis.given(example=examples())
def test_one_device_equals_the_dense_formula(kind, dropping, example):
    # y_t = Σ_e w_te f_e x_t over the pairs; the loss is Σ_t c_t · y_t.
    pairs = pairs_of(example, dropping)
    weights = np.where(pairs, example.weights, 0)
    scale = (weights @ example.factors)[:, None]
    products = (example.tokens * example.cotangents).sum(axis=1)
    expected = Result(
        outputs=scale * example.tokens,
        outputs_of_kept=scale * example.tokens,
        num_experts=pairs.sum(axis=1),
        counts=pairs.sum(axis=0),
        tokens=scale * example.cotangents,
        weights=pairs * example.factors * products[:, None],
        factors=weights.T @ products,
    )
    check_equal(on_one_device(example, kind, dropping), expected)


@pytest.fixture(scope="module")
def two_and_four(strategy_of):
    return {replicas: strategy_of(replicas) for replicas in (2, 4)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("replicas", "dropping"),
    [
        (2, True),
        pytest.param(2, False, marks=pytest.mark.slow),
        pytest.param(4, True, marks=pytest.mark.slow),
    ],
)
@FEW
@hypothesis.given(data=strategies.data(), example=examples())
def test_replicas_equal_one_device_with_the_joined_batch(
    two_and_four, replicas, kind, dropping, data, example
):
    fractions = data.draw(bounds_of(replicas), label="bounds")
    bounds = np.round(np.multiply(fractions, len(example.tokens))).astype(np.int32)
    results = traced(two_and_four[replicas], kind, dropping)(example, bounds)
    joined = [np.concatenate(parts) for parts in zip(*results, strict=True)]
    check_equal(joined, on_one_device(example, kind, dropping))
