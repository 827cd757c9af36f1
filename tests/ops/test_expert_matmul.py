from itertools import pairwise

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfmoe.ops import expert_network, expert_ways
from tfmoe.ops.expert_matmul import equal_expert_ffn, expert_ffn, grouped_matmul


@pytest.fixture(params=["unrolled", "loop"])
def either_way(request, monkeypatch):
    if request.param == "loop":
        monkeypatch.setattr(expert_ways, "UNROLLED_EXPERTS", 0)


def dense_formula(x, counts, kernels, biases, activation):
    """Every expert on every row, then the right one of them selected."""
    num_rows, num_experts = x.shape[0], kernels[0].shape[0]
    expert = np.full(num_rows, num_experts)
    expert[: np.sum(counts)] = np.repeat(np.arange(num_experts), counts)
    h = tf.tile(x[None], [num_experts, 1, 1])
    for i, kernel in enumerate(kernels):
        h = tf.matmul(activation(h) if i else h, kernel)
        h = h + biases[i][:, None] if biases else h
    return tf.einsum("ead,ae->ad", h, tf.one_hot(expert, num_experts, dtype=x.dtype))


def random_stacks(num_experts, widths, dtype=tf.float64):
    pairs = list(pairwise(widths))
    kernels = [tf.random.normal([num_experts, a, b], dtype=dtype) for a, b in pairs]
    biases = [tf.random.normal([num_experts, b], dtype=dtype) for _, b in pairs]
    return kernels, biases


def value_and_gradients(function, x, kernels, biases):
    with tf.GradientTape() as tape:
        tape.watch([x, kernels, biases])
        y = function(x, kernels, biases)
        loss = tf.reduce_sum(tf.sin(y))
    return [y, *tf.nest.flatten(tape.gradient(loss, [x, kernels, biases]))]


def assert_close(got, expected):
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        assert isinstance(a, tf.Tensor)  # no IndexedSlices
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_two_experts_by_hand(either_way):
    # Expert 0: relu(x · [1, -1]) · [2, 3]'; expert 1: relu(x · [-1, 2]) · [1, 10]'.
    kernels = [
        tf.constant([[[1.0, -1.0]], [[-1.0, 2.0]]]),
        tf.constant([[[2.0], [3.0]], [[1.0], [10.0]]]),
    ]
    x = tf.constant([[5.0], [-1.0], [2.0], [-3.0], [7.0]])
    # 5: [5, 0] -> 10. -1: [0, 1] -> 3. 2: [0, 4] -> 40. -3: [3, 0] -> 3. The last belongs to none.
    y = expert_ffn(x, tf.constant([2, 2]), kernels)
    np.testing.assert_array_equal(y, [[10.0], [3.0], [40.0], [3.0], [0.0]])


def test_grouped_matmul_by_hand(either_way):
    kernel = tf.constant([[[2.0, 0.0]], [[9.0, 9.0]], [[1.0, -1.0]]])
    with tf.GradientTape() as tape:
        tape.watch(kernel)
        y = grouped_matmul(tf.constant([[1.0], [2.0], [3.0]]), tf.constant([1, 0, 2]), kernel)
    np.testing.assert_array_equal(y, [[2.0, 0.0], [2.0, -2.0], [3.0, -3.0]])
    # The gradient of the sum: the sum of the expert's inputs, in both columns.
    np.testing.assert_array_equal(
        tape.gradient(y, kernel), [[[1.0, 1.0]], [[0.0, 0.0]], [[5.0, 5.0]]]
    )


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "widths, use_bias, activation",
    [
        ([3, 5, 4], False, tf.nn.relu),
        ([3, 5, 6, 3], True, tf.nn.gelu),  # two hidden layers
        ([3, 4], True, tf.nn.relu),  # none
    ],
)
def test_equals_the_dense_formula(
    either_way, monkeypatch, widths, use_bias, activation, recompute, compiled
):
    monkeypatch.setattr(expert_network, "LARGE_KERNEL", 16)  # some are, some are not
    tf.random.set_seed(0)
    counts = np.array([3, 0, 6, 1, 0], np.int32)  # two experts without rows
    kernels, biases = random_stacks(5, widths)
    biases = biases if use_bias else []
    x = tf.random.normal([12, 3], dtype=tf.float64)  # the last two rows belong to no expert

    def sparse(x, counts, kernels, biases):
        return expert_ffn(x, counts, kernels, biases or None, activation, recompute)

    if compiled:
        sparse = tf.function(sparse, reduce_retracing=True)
        signature = sparse.get_concrete_function(
            tf.TensorSpec([None, 3], tf.float64),
            tf.TensorSpec([5], tf.int32),
            [tf.TensorSpec(kernel.shape, tf.float64) for kernel in kernels],
            [tf.TensorSpec(bias.shape, tf.float64) for bias in biases],
        )
        assert signature.structured_outputs.shape.as_list() == [None, widths[-1]]
    assert_close(
        value_and_gradients(
            lambda x, kernels, biases: sparse(x, tf.constant(counts), kernels, biases),
            x,
            kernels,
            biases,
        ),
        value_and_gradients(
            lambda x, kernels, biases: dense_formula(x, counts, kernels, biases, activation),
            x,
            kernels,
            biases,
        ),
    )


def test_gradients_inside_one_function(either_way):
    """As in training: forward and backward in one graph, weights in variables."""
    tf.random.set_seed(1)
    stacks, _ = random_stacks(4, [3, 6, 3])
    variables = [tf.Variable(stack) for stack in stacks]
    x = tf.random.normal([9, 3], dtype=tf.float64)
    counts = [4, 0, 3, 2]

    @tf.function
    def step(x, counts, recompute):
        with tf.GradientTape() as tape:
            kernels = [tf.convert_to_tensor(v) for v in variables]
            loss = tf.reduce_sum(tf.sin(expert_ffn(x, counts, kernels, recompute=recompute)))
        return tape.gradient(loss, variables)

    expected = value_and_gradients(
        lambda x, kernels, biases: dense_formula(x, counts, kernels, biases, tf.nn.relu),
        x,
        stacks,
        [],
    )[2:]
    for recompute in (False, True):
        assert_close(step(x, tf.constant(counts), recompute), expected)


def test_one_expert_is_the_dense_layer(either_way):
    (first, second), _ = random_stacks(1, [3, 5, 3])
    x = tf.random.normal([4, 3], dtype=tf.float64)
    np.testing.assert_allclose(
        expert_ffn(x, tf.constant([4]), [first, second]), tf.nn.relu(x @ first[0]) @ second[0]
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_no_rows_at_all(either_way, recompute):
    kernels, biases = random_stacks(3, [3, 5, 2])
    y, dx, *dstacks = value_and_gradients(
        lambda x, kernels, biases: expert_ffn(
            x, tf.zeros([3], tf.int32), kernels, biases, recompute=recompute
        ),
        tf.zeros([0, 3], tf.float64),
        kernels,
        biases,
    )
    assert (y.shape, dx.shape) == ((0, 2), (0, 3))
    for gradient, stack in zip(dstacks, [*kernels, *biases], strict=True):
        np.testing.assert_array_equal(gradient, tf.zeros_like(stack))


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-5), ("bfloat16", 0.1)])
def test_types(either_way, dtype, tolerance):
    tf.random.set_seed(2)
    kernels, biases = random_stacks(3, [4, 8, 4], tf.float32)
    kernels = [0.3 * kernel for kernel in kernels]
    x = tf.random.normal([10, 4])

    def run(dtype):
        cast = [[tf.cast(stack, dtype) for stack in stacks] for stacks in (kernels, biases)]
        return value_and_gradients(
            lambda x, kernels, biases: expert_ffn(x, tf.constant([5, 2, 3]), kernels, biases),
            tf.cast(x, dtype),
            *cast,
        )

    for got, expected in zip(run(dtype), run("float64"), strict=True):
        assert got.dtype == tf.as_dtype(dtype)
        np.testing.assert_allclose(
            tf.cast(got, "float64"), expected, atol=tolerance * np.abs(expected).max()
        )


def test_many_experts_make_a_small_graph():
    kernels, _ = random_stacks(expert_ways.UNROLLED_EXPERTS + 1, [2, 3, 2])
    counts = tf.ones([len(kernels[0])], tf.int32)

    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(kernels)
            y = expert_ffn(x, counts, kernels)
        return tape.gradient(y, kernels)

    graph = tf.function(step).get_concrete_function(tf.TensorSpec([None, 2], tf.float64)).graph
    assert len(graph.get_operations()) < 200


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    "widths, use_bias, activation",
    [
        ([3, 5, 4], False, tf.nn.relu),
        ([3, 5, 6, 3], True, tf.nn.gelu),  # two hidden layers
        ([3, 4], True, tf.nn.relu),  # none
    ],
)
def test_equal_numbers_of_rows_give_what_expert_ffn_gives(
    widths, use_bias, activation, recompute, compiled
):
    tf.random.set_seed(0)
    kernels, biases = random_stacks(4, widths)
    biases = biases if use_bias else []
    x = tf.random.normal([4, 6, 3], dtype=tf.float64)

    def equal(x, kernels, biases):
        return equal_expert_ffn(x, kernels, biases or None, activation, recompute)

    def by_counts(x, kernels, biases):
        rows = tf.reshape(x, [24, 3])
        y = expert_ffn(rows, tf.fill([4], 6), kernels, biases or None, activation)
        return tf.reshape(y, [4, 6, -1])

    got = value_and_gradients(tf.function(equal) if compiled else equal, x, kernels, biases)
    assert got[0].shape == (4, 6, widths[-1])
    assert_close(got, value_and_gradients(by_counts, x, kernels, biases))


@pytest.mark.parametrize("recompute", [False, True])
def test_equal_numbers_of_no_rows(recompute):
    kernels, biases = random_stacks(3, [3, 5, 2])
    y, dx, *dstacks = value_and_gradients(
        lambda x, kernels, biases: equal_expert_ffn(x, kernels, biases, recompute=recompute),
        tf.zeros([3, 0, 3], tf.float64),
        kernels,
        biases,
    )
    assert (y.shape, dx.shape) == ((3, 0, 2), (3, 0, 3))
    for gradient, stack in zip(dstacks, [*kernels, *biases], strict=True):
        np.testing.assert_array_equal(gradient, tf.zeros_like(stack))


def case_of_derivatives(num_experts=5):
    """Rows, counts (some 0, rows without an expert), stacks, `expert_ffn` and the dense formula."""
    tf.random.set_seed(3)
    counts = np.resize(np.array([3, 0, 2, 1, 0], np.int32), num_experts)
    kernels, biases = random_stacks(num_experts, [3, 4, 2])
    x = tf.random.normal([counts.sum() + 2, 3], dtype=tf.float64)

    def sparse(x, kernels, biases, recompute=False):
        return expert_ffn(x, tf.constant(counts), kernels, biases, tf.nn.gelu, recompute)

    def dense(x, kernels, biases):
        return dense_formula(x, counts, kernels, biases, tf.nn.gelu)

    return [x, *kernels, *biases], sparse, dense


def gradients(function, tensors):
    x, first, second, *biases = tensors
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.reduce_sum(tf.sin(function(x, [first, second], biases)))
    return tape.gradient(loss, tensors)


def gradients_of_gradients(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        loss = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in gradients(function, tensors)])
    return tape.gradient(loss, tensors)


def third_derivatives(function, tensors):
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        found = gradients_of_gradients(function, tensors)
        loss = tf.add_n([tf.reduce_sum(tf.sin(g)) for g in found])
    return tape.gradient(loss, tensors)


def jacobians(function, tensors, pfor):
    x, first, second, *biases = tensors
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        y = function(x, [first, second], biases)
    by_row = tape.batch_jacobian(y, x, experimental_use_pfor=pfor)
    return [by_row, *tape.jacobian(y, [first, biases[0]], experimental_use_pfor=pfor)]


def hessian(function, tensors, pfor):
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(tensors)
        dkernel = gradients(function, tensors)[1]
    return [tape.jacobian(dkernel, tensors[2], experimental_use_pfor=pfor)]


def forward_mode(function, tensors):
    """The products of the Jacobians of the output and of the gradients with a vector."""
    x, first, second, *biases = tensors
    tangents = [tf.sin(tensor) for tensor in tensors]
    with tf.autodiff.ForwardAccumulator(tensors, tangents) as accumulator:
        y = function(x, [first, second], biases)
        found = gradients(function, tensors)
    return [accumulator.jvp(y), *accumulator.jvp(found)]


def maybe_compiled(function, compiled):
    return tf.function(function) if compiled else function


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("derivatives", [gradients_of_gradients, third_derivatives, forward_mode])
def test_other_derivatives(either_way, derivatives, recompute, compiled):
    tensors, sparse, dense = case_of_derivatives()
    run = maybe_compiled(
        lambda tensors: derivatives(lambda *stacks: sparse(*stacks, recompute), tensors), compiled
    )
    assert_close(run(tensors), derivatives(dense, tensors))


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("pfor", [False, True])
def test_jacobians(either_way, pfor, compiled):
    tensors, sparse, dense = case_of_derivatives()
    run = maybe_compiled(lambda tensors: jacobians(sparse, tensors, pfor), compiled)
    assert_close(run(tensors), jacobians(dense, tensors, True))


@pytest.mark.parametrize("way, pfor", [("unrolled", False), ("loop", False), ("loop", True)])
def test_hessian(monkeypatch, way, pfor):
    monkeypatch.setattr(expert_ways, "UNROLLED_EXPERTS", 64 if way == "unrolled" else 0)
    tensors, sparse, dense = case_of_derivatives()
    got = tf.function(lambda tensors: hessian(sparse, tensors, pfor))(tensors)
    assert_close(got, hessian(dense, tensors, True))


@pytest.mark.parametrize("num_experts", [5, expert_ways.UNROLLED_EXPERTS + 1])
def test_second_order_by_finite_differences(num_experts):
    tensors, sparse, _ = case_of_derivatives(num_experts)
    directions = [tf.cos(tensor) for tensor in tensors]
    moved = [
        gradients(sparse, [t + h * d for t, d in zip(tensors, directions, strict=True)])
        for h in (1e-5, -1e-5)
    ]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        slope = tf.add_n(
            [
                tf.reduce_sum(g * d)
                for g, d in zip(gradients(sparse, tensors), directions, strict=True)
            ]
        )
    for got, up, down in zip(tape.gradient(slope, tensors), *moved, strict=True):
        np.testing.assert_allclose(got, (up - down) / 2e-5, rtol=1e-6, atol=1e-6)


def test_forward_mode_around_a_compiled_function():
    tensors, sparse, dense = case_of_derivatives()

    def product(function):
        with tf.autodiff.ForwardAccumulator(tensors[0], tf.sin(tensors[0])) as accumulator:
            y = function(tensors[0], tensors[1:3], tensors[3:])
        return [accumulator.jvp(y)]

    assert_close(product(tf.function(sparse)), product(dense))


def test_forward_mode_of_the_upstream_gradient_alone(either_way):
    """The gradient is linear in `dy`, and only `dy` has a tangent."""
    (x, first, second, *biases), sparse, dense = case_of_derivatives()
    dy = tf.random.normal([len(x), 2], dtype=tf.float64)

    @tf.function
    def product(function, dy):
        with tf.autodiff.ForwardAccumulator(dy, tf.sin(dy)) as accumulator:
            with tf.GradientTape() as tape:
                tape.watch([x, first])
                y = function(x, [first, second], biases)
            found = tape.gradient(y, [x, first], dy)
        return accumulator.jvp(found)

    assert_close(product(sparse, dy), product(dense, dy))


@pytest.mark.parametrize("derivatives", [gradients_of_gradients, forward_mode])
def test_other_derivatives_without_rows(either_way, derivatives):
    kernels, biases = random_stacks(3, [3, 5, 2])

    def sparse(x, kernels, biases):
        return expert_ffn(x, tf.zeros([3], tf.int32), kernels, biases)

    tensors = [tf.zeros([0, 3], tf.float64), *kernels, *biases]
    for found in derivatives(sparse, tensors):
        assert np.all(found.numpy() == 0)


def test_second_order_in_bfloat16(either_way):
    tensors, sparse, _ = case_of_derivatives()
    rounded = [tf.cast(tensor, "bfloat16") for tensor in tensors]
    exact = gradients_of_gradients(sparse, [tf.cast(tensor, "float64") for tensor in rounded])
    for got, expected in zip(gradients_of_gradients(sparse, rounded), exact, strict=True):
        assert got.dtype == tf.bfloat16
        np.testing.assert_allclose(
            tf.cast(got, "float64"), expected, atol=0.1 * np.abs(expected).max()
        )


def test_no_experts():
    """As on a device without experts: 0 in every row, and gradients of the stacks' shapes."""
    x, kernel = tf.ones([3, 4]), tf.zeros([0, 4, 2])
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = grouped_matmul(x, tf.zeros([0], tf.int32), kernel)
    np.testing.assert_array_equal(y, tf.zeros([3, 2]))
    dx, dkernel = tape.gradient(y, [x, kernel])
    np.testing.assert_array_equal(dx, tf.zeros([3, 4]))
    assert dkernel.shape == kernel.shape


@pytest.fixture
def check_numerics():
    tf.debugging.enable_check_numerics()
    yield
    tf.debugging.disable_check_numerics()


@pytest.mark.parametrize("compiled, recompute", [(False, False), (True, False), (True, True)])
def test_check_numerics_finds_nothing_in_the_loop(check_numerics, compiled, recompute):
    num_experts = expert_ways.UNROLLED_EXPERTS + 1
    stacks = tf.nest.flatten(random_stacks(num_experts, [30, 40, 20]))
    x = tf.random.normal([num_experts, 30], dtype=tf.float64)
    counts = tf.constant([1, 0] * (num_experts // 2) + [3])

    def ffn(x, kernels, biases):
        return expert_ffn(x, counts, kernels, biases, tf.nn.gelu, recompute)

    step = maybe_compiled(lambda *tensors: gradients(ffn, list(tensors)), compiled)
    for _ in range(2):
        # Memory that TensorFlow will hand out again, full of NaN. `Fill` is not checked.
        garbage = [tf.fill(stack.shape, tf.constant(np.nan, tf.float64)) for stack in stacks * 20]
        del garbage
        found = step(x, *stacks)
    assert all(np.isfinite(gradient).all() for gradient in found)


def test_check_numerics_finds_the_nan_of_a_row(check_numerics, either_way):
    (x, *stacks), sparse, _ = case_of_derivatives()
    bad = [tf.fill(x.shape, tf.constant(np.nan, tf.float64)), *stacks]
    with pytest.raises(tf.errors.InvalidArgumentError, match="NaN"):
        gradients(sparse, bad)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("kind", ["layer", "closure"])
def test_an_activation_with_weights_has_no_gradient(either_way, kind, compiled):
    (x, *stacks), _, _ = case_of_derivatives()
    kernels, biases = stacks[:2], stacks[2:]
    slope = tf.Variable(0.5, dtype=tf.float64)
    layer = keras.layers.PReLU(alpha_initializer="ones", dtype="float64")
    layer.build([None, 4])
    activation = layer if kind == "layer" else lambda h: tf.where(h > 0, h, slope * h)

    def ffn(x):
        return expert_ffn(x, tf.constant([3, 0, 2, 1, 0]), kernels, biases, activation)

    def gradient(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = ffn(x)
        return tape.gradient(y, x)

    assert np.any(maybe_compiled(ffn, compiled)(x))  # inference works
    with pytest.raises(ValueError, match="activation reads the trainable variables"):
        maybe_compiled(gradient, compiled)(x)


def test_a_layer_without_weights_is_an_activation(either_way):
    (x, *stacks), _, _ = case_of_derivatives()
    counts, kernels, biases = tf.constant([3, 0, 2, 1, 0]), stacks[:2], stacks[2:]
    layer = keras.layers.LeakyReLU(0.25, dtype="float64")
    assert_close(
        value_and_gradients(lambda *a: expert_ffn(a[0], counts, *a[1:], layer), x, kernels, biases),
        value_and_gradients(
            lambda *a: dense_formula(
                a[0], counts.numpy(), *a[1:], lambda h: tf.nn.leaky_relu(h, 0.25)
            ),
            x,
            kernels,
            biases,
        ),
    )


def test_an_activation_without_a_gradient_passes_none_on(either_way):
    """`sign` is constant almost everywhere: the first layer's gradients are 0."""
    (x, *stacks), _, _ = case_of_derivatives()
    counts, kernels, biases = tf.constant([3, 0, 2, 1, 0]), stacks[:2], stacks[2:]
    _, dx, dfirst, dsecond, _, _ = value_and_gradients(
        lambda *a: expert_ffn(a[0], counts, *a[1:], lambda h: tf.stop_gradient(tf.sign(h))),
        x,
        kernels,
        biases,
    )
    assert not np.any(dx) and not np.any(dfirst) and np.any(dsecond)
