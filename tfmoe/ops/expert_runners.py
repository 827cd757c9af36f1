"""Runs a computation for every expert: unrolled into operations per expert, or as a loop.

Axes: A rows (assignments), E experts, M rows of one expert.

Both runners give the same results; `runner_for` selects one. Processor time of a training step at
k = 4, relative to a dense layer (d = 512 and h = 1024, but d = h = 64 in the last column):

| experts / tokens                      | 32/1024 | 32/8192 | 256/1024 | 256/8192 | 32/4096 |
| automatic gradients, unrolled         | 1.66    | 1.29    | 4.6      | 1.7      | 2.1     |
| unrolled                              | 1.38    | 1.24    | 3.5      | 1.45     | 2.0     |
| looped                                | 1.45    | 1.26    | 3.8      | 1.50     | 2.6     |
| light experts padded, heavy in a loop | 1.44    | 1.25    | 3.1      | 1.54     | 2.7     |

The unrolled runner is the fastest in most columns. The loop has a graph of constant size (256
unrolled experts take 5 seconds to trace, each time) and writes weight gradients in place, while the
unrolled runner briefly holds them twice. So few experts are unrolled, and many run in the loop.
Padding won in one column, and took up to twice the unrolled time when the load was skewed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

# Up to this many experts are unrolled; more run in a loop.
UNROLLED_EXPERTS = 64


class Inputs(NamedTuple):
    """The inputs that a runner splits among the experts.

    Attributes:
        rows: tensors `[A, ...]`; a step gets the `[M, ...]` of its expert.
        kept: the second result of an earlier pass, or `[]`.
        stacks: tensors `[E, ...]`; a step gets the `[...]` of its expert.
    """

    rows: Sequence
    kept: Sequence
    stacks: Sequence


class Outputs(NamedTuple):
    """The shapes of the outputs that a runner assembles.

    Attributes:
        width: columns of the row output.
        kept_widths: columns of each kept output, `[M, columns]`.
        stack_shapes: shapes `[E, ...]` of the stack outputs, stacked over the experts.
    """

    width: int
    kept_widths: Sequence
    stack_shapes: Sequence


def runner_for(num_experts):
    """Returns the function that runs a step for each expert: `unrolled` or `looped`.

    Both take these arguments:

    - `step`: `(rows, kept, parameters) -> (row output, kept outputs, stack outputs)` of one expert;
    - `counts`: `[E]` int32, the rows of each expert;
    - `inputs`: `Inputs`;
    - `outputs`: `Outputs`;
    - `sequential`: runs one expert at a time, so that memory holds the intermediate results of one.

    Both return the row outputs `[A, width]` (0 in rows that belong to no expert), the kept outputs
    and the stack outputs.
    """
    return unrolled if num_experts <= UNROLLED_EXPERTS else looped


def unrolled(step, counts, inputs, outputs, sequential):
    """Runs a step for each expert with separate operations: see `runner_for`."""
    num_experts = inputs.stacks[0].shape[0]
    num_unused, unused = unused_rows(counts, inputs, outputs)
    sizes = tf.concat([counts, num_unused[None]], axis=0)
    rows = zip(*(tf.split(r, sizes, num=num_experts + 1) for r in inputs.rows), strict=True)
    stacks = zip(*(tf.unstack(stack) for stack in inputs.stacks), strict=True)
    kept = inputs.kept or [[]] * num_experts
    results = []
    for expert_rows, *rest in zip(list(rows)[:-1], kept, stacks, strict=True):
        with tf.control_dependencies([results[-1][0]] if sequential and results else []):
            results.append(step([tf.identity(r) for r in expert_rows], *rest))
    ys, kept, stack_parts = zip(*results, strict=True)
    stack_outputs = [tf.stack(parts) for parts in zip(*stack_parts, strict=True)]
    return tf.concat([*ys, unused], axis=0), kept, stack_outputs


def looped(step, counts, inputs, outputs, sequential):
    """Runs a step for each expert in a `tf.while_loop`: see `runner_for`. Without kept and stack
    outputs, as at inference, it visits only experts that have rows.

    Gradients stop at its inputs; callers define the gradient. Under a tape TensorFlow would build a
    gradient along with the loop, and it has none for the in-place update of the stack outputs.
    """
    rows, stacks = tf.nest.map_structure(tf.stop_gradient, (inputs.rows, inputs.stacks))
    num_experts, dtype = stacks[0].shape[0], rows[0].dtype
    _, unused = unused_rows(counts, inputs, outputs)
    ends = tf.cumsum(counts)
    starts = ends - counts
    visited, num_visited = tf.range(num_experts), num_experts
    if not (inputs.kept or outputs.kept_widths or outputs.stack_shapes):
        visited, num_visited = experts_with_rows(counts)

    def body(i, arrays, stack_outputs):
        e = visited[i]
        y, kept, parts = step(
            [r[starts[e] : ends[e]] for r in rows],
            [array.read(e) for array in inputs.kept],
            [stack[e] for stack in stacks],
        )
        arrays = tuple(array.write(i, part) for array, part in zip(arrays, [y, *kept], strict=True))
        stack_outputs = tuple(
            tf.raw_ops.InplaceUpdate(x=stack, i=e[None], v=part[None])
            for stack, part in zip(stack_outputs, parts, strict=True)
        )
        return i + 1, arrays, stack_outputs

    _, (ys, *kept), stack_outputs = tf.while_loop(
        lambda i, *_: i < num_visited,
        body,
        (
            tf.constant(0),
            tuple(
                row_array(dtype, num_visited, columns)
                for columns in (outputs.width, *outputs.kept_widths)
            ),
            empty_stacks(dtype, outputs.stack_shapes),
        ),
        parallel_iterations=1 if sequential else 10,
    )
    return tf.concat([ys.concat(), unused], axis=0), kept, stack_outputs


def experts_with_rows(counts):
    """Returns the experts that have rows, `[V]` int32, and their number V; expert 0 if none has,
    since a `tf.TensorArray` without elements cannot be concatenated.
    """
    experts = tf.cast(tf.where(counts > 0)[:, 0], tf.int32)
    number = tf.maximum(tf.size(experts), 1)
    return tf.concat([experts, [0]], axis=0)[:number], number


def unused_rows(counts, inputs, outputs):
    """Returns the number of rows that belong to no expert, and their row outputs, zeros."""
    num_unused = tf.shape(inputs.rows[0])[0] - tf.reduce_sum(counts)
    return num_unused, tf.zeros([num_unused, outputs.width], inputs.rows[0].dtype)


def row_array(dtype, size, columns):
    """An empty `tf.TensorArray` for the `[M, columns]` of some experts."""
    return tf.TensorArray(
        dtype,
        size=size,
        element_shape=[None, columns],
        infer_shape=False,
        clear_after_read=False,
    )


def empty_stacks(dtype, shapes):
    """Tensors that the experts fill, each expert its part.

    They are uninitialized memory, because zeros would cost time. They are zeros under
    `tf.debugging.enable_check_numerics`, which would report NaN in the memory.
    """
    if not shapes:
        return ()
    init = check_numerics_is_on()
    return tuple(tf.raw_ops.Empty(shape=shape, dtype=dtype, init=init) for shape in shapes)


def check_numerics_is_on():
    """Whether `tf.debugging.enable_check_numerics` is on: it adds a check to every operation."""
    with tf.Graph().as_default() as graph:
        tf.identity(0.0)
    return any(op.type.startswith("CheckNumerics") for op in graph.get_operations())
