"""Two ways through the experts: one after the other, or with operations for each of them.

Axes: A rows (assignments), E experts, M rows of one expert.

Both give the same results; `way_through` chooses. Training
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
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# Up to here the graph has operations for each expert, beyond it a loop.
UNROLLED_EXPERTS = 64


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
