"""Feed-forward networks of which every row has its own expert's weights.

Axes: A rows (assignments), E experts, D model, N outputs, M rows of one expert, C rows of the
expert that has the most.

The rows arrive sorted by expert, so an expert's rows are one slice, a view without a copy, and its
work is a few plain matrix products, whatever the load of the others. The gradient is written by
hand: differentiating slices of a weight stack automatically would make a full-size gradient per
expert, and products can be chosen that run faster than those of the automatic gradient.

There are two ways to go through the experts, with the same results; `way_through` chooses. Training
step at k = 4 in processor time, a dense layer's being 1 (d = 512 and h = 1024, but d = h = 64 in
the last column):

| experts / tokens                      | 32/1024 | 32/8192 | 256/1024 | 256/8192 | 32/4096 |
| automatic gradients, unrolled         | 1.66    | 1.29    | 4.6      | 1.7      | 2.1     |
| unrolled                              | 1.38    | 1.24    | 3.5      | 1.45     | 2.0     |
| looped                                | 1.45    | 1.26    | 3.8      | 1.50     | 2.6     |
| light experts padded, heavy in a loop | 1.44    | 1.25    | 3.1      | 1.54     | 2.7     |

Unrolled is the fastest or near it. The loop has a graph of constant size (256 unrolled experts take
5 seconds to trace, each time) and writes weight gradients in place, where unrolled holds them twice
for a moment. So: unrolled for few experts, the loop for many. Padding won in one column, and under
skew cost up to twice the unrolled time.

Three kinds of derivatives cannot go that way: derivatives of the loop's gradient, forward mode, and
gradients that TensorFlow vectorizes for a Jacobian. They go through `padded_ffn`, which consists of
ordinary operations, is slower, and agrees to rounding.
"""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import tensorflow as tf

# Up to here the graph has operations for each expert, beyond it a loop.
UNROLLED_EXPERTS = 64
# Elements of a kernel from which a product with its transpose runs as a batch of one.
LARGE_KERNEL = 2**18
ZERO = tf.UnconnectedGradients.ZERO


def expert_ffn(
    x, counts, kernels, biases=None, activation=tf.nn.relu, recompute=False, training=True
):
    """Runs each row through its expert: `x_{i+1} = activation(x_i · kernel_i[e] + bias_i[e])`, the
    last layer without the activation.

    It has derivatives of every order, in reverse and in forward mode. Forward mode, Jacobians and,
    beyond `UNROLLED_EXPERTS` experts, higher derivatives compute all experts together, each on C
    rows. Two combinations fail inside TensorFlow: up to `UNROLLED_EXPERTS` experts, the vectorized
    Jacobian of a gradient if an expert has no rows (use `experimental_use_pfor=False`); beyond
    them, a `ForwardAccumulator` around a `tf.function` (put it inside the function).

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; their sum is at most A. The rows after them belong
            to no expert and are not computed.
        kernels: one `[E, inputs, outputs]` stack per layer, the type of `x`.
        biases: `None`, or one `[E, outputs]` stack per layer.
        activation: of the hidden layers; must act on each element by itself, and have no weights of
            its own.
        recompute: keeps no hidden activations for the backward pass: they are computed again, one
            expert at a time (App. D).

    Returns:
        `[A, N]`, like `x`; 0 in the rows that belong to no expert. The gradients of the stacks are
        dense tensors, 0 for experts without rows.

    Raises:
        ValueError: a gradient is taken and `activation` reads trainable variables.
    """
    biases = biases or []
    num_experts, depth = kernels[0].shape[0], len(kernels)
    if num_experts == 0:
        return without_experts(x, kernels, biases)
    network = Network(depth, bool(biases), activation, training and not recompute)
    if has_tangents([x, *kernels, *biases]):
        return padded_ffn(network, counts, x, [*kernels, *biases])
    through_experts = way_through(num_experts)
    kept_widths = [kernel.shape[2] for kernel in kernels[:-1]] if network.keeps_hidden else []

    @tf.custom_gradient
    def ffn(x, *stacks):
        inputs, outputs = Inputs([x], [], stacks), Outputs(kernels[-1].shape[2], kept_widths, [])
        y, kept, _ = through_experts(network.forward, counts, inputs, outputs, recompute)

        def backward(x, dy, *stacks):
            inputs = Inputs([x, dy], kept, stacks)
            outputs = Outputs(x.shape[1], [], [stack.shape for stack in stacks])
            dx, _, dstacks = through_experts(network.backward, counts, inputs, outputs, recompute)
            return dx, *dstacks

        def gradient(dy, variables=None):
            refuse_variables(variables)
            looped_tensors = [x, dy, *stacks] if through_experts is looped else []
            if in_vectorized_loop() or has_tangents(looped_tensors):
                return padded_gradient(network, counts, x, dy, *stacks)
            if through_experts is unrolled:
                return backward(x, dy, *stacks)
            return differentiable(backward, network, counts)(x, dy, *stacks)

        return y, gradient

    return ffn(x, *kernels, *biases)


def equal_expert_ffn(x, kernels, biases=None, activation=tf.nn.relu, recompute=False):
    """`expert_ffn` where every expert has equally many rows: one batched product for each layer.

    A training step takes 0.75 (E = 64, C = 128, D = 48, H = 96) to 1.0 (16, 512, 128, 256) times as
    long as by `expert_ffn`, on one thread.

    Args:
        x: `[E, C, D]` floating point.
        kernels, biases, activation: as for `expert_ffn`.
        recompute: keeps no hidden activations for the backward pass: they are computed again, for
            all experts together.

    Returns:
        `[E, C, N]`, like `x`.
    """
    depth = len(kernels)

    def ffn(x, *stacks):
        for i in range(depth):
            x = tf.matmul(activation(x) if i else x, stacks[i])
            x = x + stacks[depth + i][:, None, :] if biases else x
        return x

    return (tf.recompute_grad(ffn) if recompute else ffn)(x, *kernels, *(biases or []))


def grouped_matmul(x, counts, kernel):
    """Multiplies each row with its expert's matrix.

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; rows after them give 0.
        kernel: `[E, D, N]`, the type of `x`.

    Returns:
        `[A, N]`, like `x`.
    """
    return expert_ffn(x, counts, [kernel])


def matmul_transposed(x, kernel):
    """`x · kernelᵀ`: `[M, N]` and `[D, N]` to `[M, D]`.

    A large kernel goes through a batched product with a batch of one, which on a CPU runs 1.4 times
    (M = 128) to 2.2 times (M = 16) as fast as the plain product with a transposed second operand;
    for a small one the two reshapes cost more than that.
    """
    if kernel.shape.num_elements() < LARGE_KERNEL:
        return tf.matmul(x, kernel, transpose_b=True)
    return tf.matmul(x[None], kernel[None], transpose_b=True)[0]


class Network(NamedTuple):
    """The feed-forward network of one expert. Its `parameters` are `depth` kernels, then, with
    biases, as many biases.

    `forward` and `backward` are steps of one expert for `unrolled` and `looped`.
    """

    depth: int
    use_bias: bool
    activation: Callable
    keeps_hidden: bool

    def layer_sums(self, rows, parameters):
        """`x_i · kernel_i + bias_i` of every layer, for the `[M, D]` rows of one expert."""
        sums = []
        for i in range(self.depth):
            inputs = self.activation(sums[-1]) if i else rows
            product = tf.matmul(inputs, parameters[i])
            sums.append(product + parameters[self.depth + i] if self.use_bias else product)
        return sums

    def forward(self, rows, _, parameters):
        """Of `[rows]`: the outputs; keeps the sums of the hidden layers."""
        *hidden, y = self.layer_sums(rows[0], parameters)
        return y, hidden if self.keeps_hidden else [], []

    def backward(self, rows, hidden, parameters):
        """Of `[rows, dy]`: the gradients of the rows and of the parameters."""
        rows, dsum = rows
        if not self.keeps_hidden:
            hidden = self.layer_sums(rows, parameters)[:-1]
        dkernels, dbiases = [None] * self.depth, [None] * self.depth
        for i in reversed(range(self.depth)):
            with tf.GradientTape() as tape:
                tape.watch(hidden[i - 1] if i else rows)
                inputs = self.activation(hidden[i - 1]) if i else rows
            dkernels[i] = tf.matmul(inputs, dsum, transpose_a=True)
            dbiases[i] = tf.reduce_sum(dsum, axis=0)
            dsum = matmul_transposed(dsum, parameters[i])
            if i:
                dsum = tape.gradient(inputs, hidden[i - 1], dsum, ZERO)
        return dsum, [], dkernels + dbiases if self.use_bias else dkernels


class Inputs(NamedTuple):
    """What a way through the experts divides among them.

    Args:
        rows: tensors `[A, ...]`; a step gets its expert's `[M, ...]`.
        kept: what an earlier pass returned as its second result, or `[]`.
        stacks: tensors `[E, ...]`; a step gets its expert's `[...]`.
    """

    rows: Sequence
    kept: Sequence
    stacks: Sequence


class Outputs(NamedTuple):
    """What a way through the experts puts together.

    Args:
        width: columns of the row output.
        kept_widths: columns of each kept output, `[M, columns]`.
        stack_shapes: shapes `[E, ...]` of the stacked stack outputs.
    """

    width: int
    kept_widths: Sequence
    stack_shapes: Sequence


def way_through(num_experts):
    """The function that applies a step to each expert's share: `unrolled` or `looped`.

    Both take
        step: `(rows, kept, parameters) -> (row output, kept outputs, stack outputs)` of one expert;
        counts: `[E]` int32;
        inputs: `Inputs`;
        outputs: `Outputs`;
        in_turn: one expert after the other, so that memory holds what one of them needs;
    and return the row outputs `[A, width]` (0 where rows belong to no expert), the kept outputs,
    and the stack outputs.
    """
    return unrolled if num_experts <= UNROLLED_EXPERTS else looped


def unrolled(step, counts, inputs, outputs, in_turn):
    """Operations for each expert: see `way_through`."""
    num_experts = inputs.stacks[0].shape[0]
    num_unused, unused = unused_rows(counts, inputs, outputs)
    sizes = tf.concat([counts, num_unused[None]], axis=0)
    rows = zip(*(tf.split(r, sizes, num=num_experts + 1) for r in inputs.rows), strict=True)
    stacks = zip(*(tf.unstack(stack) for stack in inputs.stacks), strict=True)
    kept = inputs.kept or [[]] * num_experts
    results = []
    for share in zip(list(rows)[:-1], kept, stacks, strict=True):
        with tf.control_dependencies([results[-1][0]] if in_turn and results else []):
            results.append(step([tf.identity(r) for r in share[0]], *share[1:]))
    ys, kept, stack_parts = zip(*results, strict=True)
    stack_outputs = [tf.stack(parts) for parts in zip(*stack_parts, strict=True)]
    return tf.concat([*ys, unused], axis=0), kept, stack_outputs


def looped(step, counts, inputs, outputs, in_turn):
    """A `tf.while_loop` over the experts: see `way_through`.

    Gradients stop at it: its users define their own. TensorFlow would build one along with the loop
    under a tape, and has none for the in-place update that puts the stack outputs together.
    """
    rows, stacks = tf.nest.map_structure(tf.stop_gradient, (inputs.rows, inputs.stacks))
    num_experts, dtype = stacks[0].shape[0], rows[0].dtype
    _, unused = unused_rows(counts, inputs, outputs)
    ends = tf.cumsum(counts)
    starts = ends - counts

    def body(e, arrays, stack_outputs):
        y, kept, parts = step(
            [r[starts[e] : ends[e]] for r in rows],
            [array.read(e) for array in inputs.kept],
            [stack[e] for stack in stacks],
        )
        arrays = tuple(array.write(e, part) for array, part in zip(arrays, [y, *kept], strict=True))
        stack_outputs = tuple(
            tf.raw_ops.InplaceUpdate(x=stack, i=e[None], v=part[None])
            for stack, part in zip(stack_outputs, parts, strict=True)
        )
        return e + 1, arrays, stack_outputs

    _, (ys, *kept), stack_outputs = tf.while_loop(
        lambda e, *_: e < num_experts,
        body,
        (
            tf.constant(0),
            tuple(
                row_array(dtype, num_experts, columns)
                for columns in (outputs.width, *outputs.kept_widths)
            ),
            empty_stacks(dtype, outputs.stack_shapes),
        ),
        parallel_iterations=1 if in_turn else 10,
    )
    return tf.concat([ys.concat(), unused], axis=0), kept, stack_outputs


def unused_rows(counts, inputs, outputs):
    """How many rows belong to no expert, and their row outputs, zeros."""
    num_unused = tf.shape(inputs.rows[0])[0] - tf.reduce_sum(counts)
    return num_unused, tf.zeros([num_unused, outputs.width], inputs.rows[0].dtype)


def row_array(dtype, num_experts, columns):
    """A place for `[M, columns]` of each expert."""
    return tf.TensorArray(
        dtype,
        size=num_experts,
        element_shape=[None, columns],
        infer_shape=False,
        clear_after_read=False,
    )


def empty_stacks(dtype, shapes):
    """Tensors of which every expert will write its part.

    They hold what the memory held before: zeros would cost time. Only
    `tf.debugging.enable_check_numerics` needs them, as it would find NaN.
    """
    if not shapes:
        return ()
    init = checks_numerics()
    return tuple(tf.raw_ops.Empty(shape=shape, dtype=dtype, init=init) for shape in shapes)


def checks_numerics():
    """Whether `tf.debugging.enable_check_numerics` is on: it adds a check to every operation."""
    with tf.Graph().as_default() as graph:
        tf.identity(0.0)
    return any(op.type.startswith("CheckNumerics") for op in graph.get_operations())


def padded_ffn(network, counts, x, stacks):
    """`expert_ffn` by ordinary operations, which TensorFlow can differentiate in every way.

    All experts run together, each on C rows: its own, and its first again where it has fewer.
    """
    place = tf.range(tf.maximum(tf.reduce_max(counts), 1))
    is_used = place < counts[:, None]
    starts = tf.cumsum(counts, exclusive=True)
    rows = tf.gather(
        tf.pad(x, [[0, 1], [0, 0]]), starts[:, None] + tf.where(is_used, place, 0)
    )  # the row of padding is for experts without rows after the last row
    parameters = [*stacks[: network.depth], *(bias[:, None] for bias in stacks[network.depth :])]
    y = network.layer_sums(rows, parameters)[-1]
    y = tf.boolean_mask(y, is_used)
    return tf.pad(y, [[0, tf.shape(x)[0] - tf.shape(y)[0]], [0, 0]])


def padded_gradient(network, counts, x, dy, *stacks):
    """The gradient of `padded_ffn`: of `x` and of the stacks."""
    with tf.GradientTape() as tape:
        tape.watch([x, *stacks])
        y = padded_ffn(network, counts, x, stacks)
    return tape.gradient(y, [x, *stacks], dy, ZERO)


def differentiable(backward, network, counts):
    """`backward(x, dy, *stacks)` with derivatives: those of `padded_gradient`."""

    @tf.custom_gradient
    def first_order(*tensors):
        def gradient(*upstream):
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                gradients = padded_gradient(network, counts, *tensors)
            return tape.gradient(gradients, tensors, upstream, ZERO)

        return backward(*tensors), gradient

    return first_order


def without_experts(x, kernels, biases):
    """Zeros, through which gradients flow: for a device without experts."""
    zero = tf.add_n([tf.reduce_sum(stack) for stack in (*kernels, *biases)])
    return zero + tf.matmul(x, tf.zeros([kernels[0].shape[1], kernels[-1].shape[2]], x.dtype))


def refuse_variables(variables):
    """Raises a `ValueError` if an activation read variables: they would get no gradient."""
    if variables:
        raise ValueError(
            f"activation reads the trainable variables {[v.name for v in variables]}, for which "
            "expert_ffn has no gradient: use an activation without weights, such as tf.nn.relu"
        )


def has_tangents(tensors):
    """Whether a `tf.autodiff.ForwardAccumulator` follows one of the tensors: it asks for a gradient
    as soon as an operation is recorded.
    """
    asked = []

    @tf.custom_gradient
    def probe(*tensors):
        def gradient(_):
            asked.append(True)
            return [None] * len(tensors)

        return tensors[0], gradient

    if tensors:
        probe(*tensors)
    return bool(asked)


def in_vectorized_loop():
    """Whether TensorFlow will vectorize what is being traced, as `tf.GradientTape.jacobian` does:
    it traces under this name. It fails on slices without rows and on a loop with arrays.
    """
    return re.search(r"(^|/)loop_body(_\d+)?(/|$)", tf.get_current_name_scope()) is not None
