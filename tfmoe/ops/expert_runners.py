"""Runs a computation for every expert: unrolled into operations per expert, as a loop, or for many
experts together.

Axes: A rows (assignments), E experts, M rows of one expert, C rows of each expert that are computed
together.

All runners give the same results up to rounding; `runner_for` selects one. Processor time of a
training step on 2 busy cores, relative to a dense layer of the same multiply-adds, uniform / skewed
load (k = 4, d = 512, h = 1024, whole layer; in the last two columns k = 2, d = 48, h = 96, experts
alone):

| experts / tokens | 32/1024     | 256/1024    | 256/8192    | 64/4096   | 1024/4096   |
| unrolled         | 1.50 / 1.54 |             |             | 2.3 / 2.1 |             |
| looped           | 1.55 / 1.67 | 4.00 / 4.18 | 1.73 / 1.86 | 3.2 / 3.0 | 16.8 / 16.5 |
| batched          | 1.48 / 1.81 | 3.40 / 4.09 | 1.64 / 1.88 | 2.3 / 3.1 | 6.6 / 7.8   |

Few experts are unrolled: with skewed loads that is the fastest, but the graph grows with E (256
unrolled experts take 5 seconds to trace, each time). More are batched: one graph of constant size.
An expert in the loop costs a fixed time, which for small experts is most of it; a batched product
has no such cost, and writes the gradients of all weights once, without a copy. What batching costs
is padding, so the rows of experts with a high load go through the loop. Both have hand-written
gradients. Recomputation keeps the loop, since memory is to hold one expert at a time.
"""

from collections.abc import Sequence
from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops.batched_rows import BatchedRows, batched_size, visits_of_loop

# Up to this many experts are unrolled; more are batched.
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


def runner_for(num_experts, sequential):
    """Returns the function that runs a step for each expert: `unrolled`, `looped` or `batched`.

    All take these arguments:

    - `step`: `(rows, kept, parameters) -> (row output, kept outputs, stack outputs)` of one expert;
      for `batched` also of all experts, with one more leading axis in all of them;
    - `counts`: `[E]` int32, the rows of each expert;
    - `inputs`: `Inputs`;
    - `outputs`: `Outputs`;
    - `sequential`: runs one expert at a time, so that memory holds the intermediate results of one.

    All return the row outputs `[A, width]` (0 in rows that belong to no expert), the kept outputs
    and the stack outputs.
    """
    if num_experts <= UNROLLED_EXPERTS:
        return unrolled
    return looped if sequential else batched


def unrolled(step, counts, inputs, outputs, sequential):
    """Runs a step for each expert with separate operations: see `runner_for`. Without kept and
    stack outputs eager code skips experts without rows.
    """
    num_experts = inputs.stacks[0].shape[0]
    skips = tf.executing_eagerly() and not visits_all(inputs, outputs)
    num_unused, unused = unused_rows(counts, inputs, outputs)
    sizes = tf.concat([counts, num_unused[None]], axis=0)
    rows = zip(*(tf.split(r, sizes, num=num_experts + 1) for r in inputs.rows), strict=True)
    stacks = zip(*(tf.unstack(stack) for stack in inputs.stacks), strict=True)
    kept = inputs.kept or [[]] * num_experts
    results = []
    for expert_rows, *rest in zip(list(rows)[:-1], kept, stacks, strict=True):
        if skips and results and not expert_rows[0].shape[0]:
            continue
        with tf.control_dependencies([results[-1][0]] if sequential and results else []):
            results.append(step([tf.identity(r) for r in expert_rows], *rest))
    ys, kept, stack_parts = zip(*results, strict=True)
    kept = [[]] * num_experts if skips else kept
    stack_outputs = [tf.stack(parts) for parts in zip(*stack_parts, strict=True)]
    return tf.concat([*ys, unused], axis=0), kept, stack_outputs


def looped(step, counts, inputs, outputs, sequential):
    """Runs a step for each expert in a `tf.while_loop`: see `runner_for`. Without kept and stack
    outputs, as at inference, or if most experts have no rows, it visits only those that have some.

    Gradients stop at its inputs; callers define the gradient. Under a tape TensorFlow would build a
    gradient along with the loop, and it has none for the in-place update of the stack outputs.
    """
    inputs = without_gradients(inputs)
    dtype = inputs.rows[0].dtype
    _, unused = unused_rows(counts, inputs, outputs)
    ends = tf.cumsum(counts)
    is_visited = visits_of_loop(counts) if visits_all(inputs, outputs) else counts > 0
    visits = Visits(*listed(is_visited), ends - counts, ends)
    stacks = empty_or_zeros(dtype, outputs.stack_shapes, is_visited)
    y, kept, stacks = loop(step, visits, inputs, outputs, stacks, write_part, sequential)
    return tf.concat([y, unused], axis=0), kept, stacks


def batched(step, counts, inputs, outputs, sequential):
    """Runs a step for the first C rows of all experts together, in batched products, and then for
    the remaining rows of each expert in a `tf.while_loop`: see `runner_for`.

    `batched_size` selects C in each call. It is 0 if the loads differ so much that the loop alone
    is faster. Gradients stop at the inputs, as for `looped`.
    """
    inputs = without_gradients(inputs)
    num_experts, dtype = inputs.stacks[0].shape[0], inputs.rows[0].dtype
    _, unused = unused_rows(counts, inputs, outputs)
    elements = sum(stack.shape[1:].num_elements() for stack in inputs.stacks)
    first = BatchedRows.of(counts, batched_size(counts, elements))
    kept_first, kept_rest = inputs.kept or ((), ())

    def run_together():
        rows = [first.pad(r) for r in inputs.rows]
        y, kept, stacks = step(rows, list(kept_first), inputs.stacks)
        return first.unpad(y), tuple(kept), tuple(stacks)

    def run_nothing():
        kept = [tf.zeros([num_experts, 0, width], dtype) for width in outputs.kept_widths]
        (y,) = empty(dtype, [[first.num_rows, outputs.width]])
        return y, tuple(kept), empty_or_zeros(dtype, outputs.stack_shapes, visits_of_loop(counts))

    is_batched = first.size > 0
    y, kept, stacks = tf.cond(is_batched, run_together, run_nothing)

    def write(stack, expert, part):
        return tf.cond(
            is_batched,
            lambda: tf.raw_ops.InplaceAdd(x=stack, i=expert[None], v=part[None]),
            lambda: write_part(stack, expert, part),
        )

    is_visited = first.rest > 0
    if visits_all(inputs, outputs):
        is_visited |= ~is_batched & visits_of_loop(counts)
    visits = Visits(*listed(is_visited), first.ends - first.rest, first.ends)
    rest = inputs._replace(kept=kept_rest)
    y_rest, kept_rest, stacks = loop(step, visits, rest, outputs, stacks, write, sequential)
    y = tf.raw_ops.InplaceUpdate(x=y, i=first.rows_of_rest(), v=y_rest)
    y = tf.ensure_shape(tf.concat([y, unused], axis=0), [None, outputs.width])
    return y, (kept, kept_rest), stacks


class Visits(NamedTuple):
    """The experts that a loop visits, and the rows that it computes of each expert.

    Attributes:
        experts: `[V]` int32.
        number: V, at least 1.
        starts: `[E]` int32, the first row of each expert.
        ends: `[E]` int32, the row after the last one.
    """

    experts: tf.Tensor
    number: tf.Tensor
    starts: tf.Tensor
    ends: tf.Tensor


def loop(step, visits, inputs, outputs, stacks, write, sequential):
    """Runs a step for each visited expert in a `tf.while_loop`.

    Args:
        step: as for `runner_for`.
        visits: `Visits`.
        inputs: `Inputs`; `kept` is the second result of an earlier loop with the same visits.
        outputs: `Outputs`.
        stacks: tensors `[E, ...]`, updated in place.
        write: `(stack, expert, part) -> stack`, the update by the part of an expert.
        sequential: as for `runner_for`.

    Returns:
        The row outputs of the visited experts; the kept outputs, arrays with an element for each
        visit; and the stacks.
    """
    dtype = inputs.rows[0].dtype

    def body(i, arrays, stacks):
        e = visits.experts[i]
        y, kept, parts = step(
            [r[visits.starts[e] : visits.ends[e]] for r in inputs.rows],
            [array.read(i) for array in inputs.kept],
            [stack[e] for stack in inputs.stacks],
        )
        arrays = tuple(array.write(i, part) for array, part in zip(arrays, [y, *kept], strict=True))
        stacks = tuple(write(stack, e, part) for stack, part in zip(stacks, parts, strict=True))
        return i + 1, arrays, stacks

    widths = (outputs.width, *outputs.kept_widths)
    arrays = tuple(row_array(dtype, visits.number, columns) for columns in widths)
    _, (ys, *kept), stacks = tf.while_loop(
        lambda i, *_: i < visits.number,
        body,
        (tf.constant(0), arrays, tuple(stacks)),
        parallel_iterations=1 if sequential else 10,
    )
    return ys.concat(), kept, stacks


def write_part(stack, expert, part):
    """Writes the part of an expert into a stack, in place."""
    return tf.raw_ops.InplaceUpdate(x=stack, i=expert[None], v=part[None])


def without_gradients(inputs):
    """The inputs, with no gradients of the rows and stacks."""
    rows, stacks = tf.nest.map_structure(tf.stop_gradient, (inputs.rows, inputs.stacks))
    return inputs._replace(rows=rows, stacks=stacks)


def visits_all(inputs, outputs):
    """Whether there are outputs of each expert, which an array or a stack holds."""
    return bool(inputs.kept or outputs.kept_widths or outputs.stack_shapes)


def listed(is_visited):
    """Returns the experts to visit, `[V]` int32, and their number V; expert 0 if there are none,
    since a `tf.TensorArray` without elements cannot be concatenated.

    Args:
        is_visited: `[E]` bool.
    """
    experts = tf.cast(tf.where(is_visited)[:, 0], tf.int32)
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


def empty(dtype, shapes, zeros=False):
    """Tensors that the experts fill, each expert its part.

    They are uninitialized memory, because zeros would cost time. They are zeros on request, and
    under `tf.debugging.enable_check_numerics`, which would report NaN in the memory.
    """
    if not shapes:
        return ()
    init = zeros or check_numerics_is_on()
    return tuple(tf.raw_ops.Empty(shape=shape, dtype=dtype, init=init) for shape in shapes)


def empty_or_zeros(dtype, shapes, is_filled):
    """`empty` if every expert fills its part, else zeros.

    Args:
        dtype: the dtype.
        shapes: shapes `[E, ...]`.
        is_filled: `[E]` bool.
    """
    if not shapes:
        return ()
    return tf.cond(
        tf.reduce_all(is_filled),
        lambda: empty(dtype, shapes),
        lambda: empty(dtype, shapes, zeros=True),  # `tf.zeros` can be a constant of the graph
    )


def check_numerics_is_on():
    """Whether `tf.debugging.enable_check_numerics` is on: it adds a check to every operation."""
    with tf.Graph().as_default() as graph:
        tf.identity(0.0)
    return any(op.type.startswith("CheckNumerics") for op in graph.get_operations())
