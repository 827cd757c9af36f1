"""Feed-forward networks of which every row has its own expert's weights.

Axes: A rows (assignments), E experts, D model, N outputs, M rows of one expert.

The rows arrive sorted by expert, so an expert's rows are one slice, a view without a copy, and its
work is a few plain matrix products, whatever the load of the others. The gradient is written by
hand: differentiating slices of a weight stack automatically would make a full-size gradient per
expert, and products can be chosen that run faster than those of the automatic gradient.

`through_experts` is the one place that decides how to go through the experts.
"""

import tensorflow as tf

# Up to here the graph has operations for each expert, beyond it a loop.
UNROLLED_EXPERTS = 64
# Elements of a kernel from which a product with its transpose runs as a batch of one.
LARGE_KERNEL = 2**18


def expert_ffn(
    x, counts, kernels, biases=None, activation=tf.nn.relu, recompute=False, training=True
):
    """Runs each row through its expert: `x_{i+1} = activation(x_i · kernel_i[e] + bias_i[e])`, the
    last layer without the activation.

    Args:
        x: `[A, D]` floating point, rows sorted by expert.
        counts: `[E]` int32, rows of each expert; their sum is at most A. The rows after them belong
            to no expert and are not computed.
        kernels: one `[E, inputs, outputs]` stack per layer, the type of `x`.
        biases: `None`, or one `[E, outputs]` stack per layer.
        activation: of the hidden layers; must act on each element by itself.
        recompute: keeps no hidden activations for the backward pass: they are computed again, one
            expert at a time (App. D).

    Returns:
        `[A, N]`, like `x`; 0 in the rows that belong to no expert. The gradients of the stacks are
        dense tensors, 0 for experts without rows.
    """
    depth = len(kernels)
    keeps_hidden = training and not recompute
    if kernels[0].shape[0] == 0:  # a device without experts: zeros, through which gradients flow
        zero = tf.add_n([tf.reduce_sum(stack) for stack in (*kernels, *(biases or []))])
        return zero + tf.matmul(x, tf.zeros([kernels[0].shape[1], kernels[-1].shape[2]], x.dtype))

    def layer_sums(rows, parameters):
        """`x_i · kernel_i + bias_i` of every layer, for the `[M, D]` rows of one expert."""
        sums = []
        for i in range(depth):
            inputs = activation(sums[-1]) if i else rows
            product = tf.matmul(inputs, parameters[i])
            sums.append(product + parameters[depth + i] if biases else product)
        return sums

    def forward(rows, _, parameters):
        *hidden, y = layer_sums(rows[0], parameters)
        return y, hidden if keeps_hidden else [], []

    def backward(rows, hidden, parameters):
        rows, dsum = rows
        if not keeps_hidden:
            hidden = layer_sums(rows, parameters)[:-1]
        dkernels, dbiases = [None] * depth, [None] * depth
        for i in reversed(range(depth)):
            with tf.GradientTape() as tape:
                tape.watch(hidden[i - 1] if i else rows)
                inputs = activation(hidden[i - 1]) if i else rows
            dkernels[i] = tf.matmul(inputs, dsum, transpose_a=True)
            dbiases[i] = tf.reduce_sum(dsum, axis=0)
            dsum = matmul_transposed(dsum, parameters[i])
            if i:
                dsum = tape.gradient(inputs, hidden[i - 1], dsum)
        return dsum, [], dkernels + dbiases if biases else dkernels

    @tf.custom_gradient
    def ffn(x, *stacks):
        kept_widths = [kernel.shape[2] for kernel in kernels[:-1]] if keeps_hidden else []
        y, kept, _ = through_experts(
            forward, counts, [x], [], stacks, kernels[-1].shape[2], kept_widths, [], recompute
        )

        def gradient(dy):
            shapes = [stack.shape for stack in stacks]
            dx, _, dstacks = through_experts(
                backward, counts, [x, dy], kept, stacks, x.shape[1], [], shapes, recompute
            )
            return dx, *dstacks

        return y, gradient

    return ffn(x, *kernels, *(biases or []))


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


def through_experts(step, counts, rows, kept, stacks, width, kept_widths, stack_shapes, in_turn):
    """Applies `step` to each expert's share of everything.

    Two ways, the same results. Training step at k = 4 in processor time, a dense layer's being 1
    (d = 512 and h = 1024, but d = h = 64 in the last column):

    | experts / tokens                      | 32/1024 | 32/8192 | 256/1024 | 256/8192 | 32/4096 |
    | automatic gradients, unrolled         | 1.66    | 1.29    | 4.6      | 1.7      | 2.1     |
    | unrolled                              | 1.38    | 1.24    | 3.5      | 1.45     | 2.0     |
    | loop                                  | 1.45    | 1.26    | 3.8      | 1.50     | 2.6     |
    | light experts padded, heavy in a loop | 1.44    | 1.25    | 3.1      | 1.54     | 2.7     |

    Unrolled is the fastest or near it. The loop has a graph of constant size (256 unrolled experts
    take 5 seconds to trace, each time) and writes weight gradients in place, where unrolled holds
    them twice for a moment. So: unrolled for few experts, the loop for many. Padding won in one
    column, and under skew cost up to twice the unrolled time.

    Args:
        step: `(rows, kept, parameters) -> (row output, kept outputs, stack outputs)` of one expert.
        counts: `[E]` int32.
        rows: tensors `[A, ...]`; the step gets its expert's `[M, ...]`.
        kept: what an earlier pass returned as its second result, or `[]`.
        stacks: tensors `[E, ...]`; the step gets its expert's `[...]`.
        width: columns of the row output.
        kept_widths: columns of each kept output, `[M, columns]`.
        stack_shapes: shapes `[E, ...]` of the stacked stack outputs.
        in_turn: one expert after the other, so that memory holds what one of them needs.

    Returns:
        The row outputs `[A, width]` (0 where rows belong to no expert), the kept outputs, and the
        stack outputs.
    """
    num_experts = stacks[0].shape[0]
    dtype = rows[0].dtype
    num_unused = tf.shape(rows[0])[0] - tf.reduce_sum(counts)
    unused = tf.zeros([num_unused, width], dtype)
    if num_experts <= UNROLLED_EXPERTS:
        sizes = tf.concat([counts, num_unused[None]], axis=0)
        rows = zip(*(tf.split(r, sizes, num=num_experts + 1) for r in rows), strict=True)
        stacks = zip(*(tf.unstack(stack) for stack in stacks), strict=True)
        kept = kept or [[]] * num_experts
        results = []
        for share in zip(list(rows)[:-1], kept, stacks, strict=True):
            with tf.control_dependencies([results[-1][0]] if in_turn and results else []):
                results.append(step([tf.identity(r) for r in share[0]], *share[1:]))
        ys, kept, stack_parts = zip(*results, strict=True)
        stack_outputs = [tf.stack(parts) for parts in zip(*stack_parts, strict=True)]
        return tf.concat([*ys, unused], axis=0), kept, stack_outputs

    ends = tf.cumsum(counts)
    starts = ends - counts

    def arrays(widths):
        return tuple(
            tf.TensorArray(
                dtype,
                size=num_experts,
                element_shape=[None, columns],
                infer_shape=False,
                clear_after_read=False,
            )
            for columns in widths
        )

    def body(e, outputs, stack_outputs):
        y, kept_outputs, parts = step(
            [r[starts[e] : ends[e]] for r in rows],
            [array.read(e) for array in kept],
            [stack[e] for stack in stacks],
        )
        outputs = tuple(
            array.write(e, o) for array, o in zip(outputs, [y, *kept_outputs], strict=True)
        )
        stack_outputs = tuple(
            tf.raw_ops.InplaceUpdate(x=s, i=e[None], v=part[None])
            for s, part in zip(stack_outputs, parts, strict=True)
        )
        return e + 1, outputs, stack_outputs

    # Every place of an empty tensor is written: each expert gives its part.
    empty = tuple(tf.raw_ops.Empty(shape=shape, dtype=dtype) for shape in stack_shapes)
    _, (ys, *kept), stack_outputs = tf.while_loop(
        lambda e, *_: e < num_experts,
        body,
        (tf.constant(0), arrays([width, *kept_widths]), empty),
        parallel_iterations=1 if in_turn else 10,
    )
    return tf.concat([ys.concat(), unused], axis=0), kept, stack_outputs
