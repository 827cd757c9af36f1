"""Runs a recurrence over the steps of a batch; with recomputation, in segments of √S steps.

Axes: B sequences, S steps, L steps of a segment, N segments.

The arguments that the functions share:

- `step(inputs, state, weights) -> state, sums`: one step. The first tensors of the state are the
  outputs. `sums` are added up over the steps.
- `sequences`: nested structure of tensors `[S, ...]`; a step gets the `[...]` of its step.
- `state`: list of tensors, the state before the first step.
- `weights`: nested structure of the weights that `step` differentiates.
- `zeros`: nested structure of zeros, like `sums`.
- `num_outputs`: the number of tensors of the state that are outputs.
"""

import tensorflow as tf

from tfmoe.distribute.static_shapes import portable_only


def run_steps(step, sequences, state, weights=(), zeros=(), recompute=False, num_outputs=1):
    """Runs a recurrence.

    Args:
        step: see above.
        sequences: see above.
        state: see above.
        weights: see above.
        zeros: see above.
        recompute: whether the backward pass keeps the state of every L-th step only, L = ⌈√S⌉, and
            computes a segment of L steps again, one segment at a time. `step` must then read no
            trainable variable, and draw no random number. A graph for another runtime has no
            backward pass and ignores it.
        num_outputs: see above; 1 with `recompute`.

    Returns:
        The outputs, a list of tensors `[S, ...]`; the last state; the sums of all steps.
    """
    num_steps = tf.shape(tf.nest.flatten(sequences)[0])[0]
    arguments = (step, sequences, state, weights, zeros, num_steps)
    if portable_only():
        return run_loop_without_arrays(*arguments, num_outputs)
    if recompute:
        return run_segments(*arguments)
    return run_loop(*arguments, num_outputs)


def run_loop(step, sequences, state, weights, zeros, num_steps, num_outputs=1):
    """Runs the first `num_steps` steps in a `tf.while_loop`.

    Returns:
        The outputs, a list of tensors `[num_steps, ...]`; the last state; the sums.
    """
    arrays = tf.nest.map_structure(array_of, sequences)
    outputs = [
        tf.TensorArray(x.dtype, num_steps, element_shape=x.shape) for x in state[:num_outputs]
    ]

    def body(t, state, sums, outputs):
        inputs = tf.nest.map_structure(
            lambda array, x: tf.ensure_shape(array.read(t), x.shape[1:]), arrays, sequences
        )
        new_state, step_sums = step(inputs, state, weights)
        sums = tf.nest.map_structure(tf.add, sums, step_sums)
        outputs = [array.write(t, x) for array, x in zip(outputs, new_state, strict=False)]
        return t + 1, new_state, sums, outputs

    _, state, sums, outputs = tf.while_loop(
        lambda t, *_: t < num_steps,
        body,
        (tf.constant(0), state, zeros, outputs),
        maximum_iterations=num_steps,
    )
    return [array.stack() for array in outputs], state, sums


def run_loop_without_arrays(step, sequences, state, weights, zeros, num_steps, num_outputs=1):
    """`run_loop` without tensor arrays, which LiteRT lacks for a batch of unknown size.

    A step reads its row of the sequences, and writes its row of the outputs into a copy of them.
    """
    indices = tf.range(num_steps)

    def rows_like(x):
        return tf.zeros(tf.concat([[num_steps], tf.shape(x)], axis=0), x.dtype)

    def with_row(rows, t, x):
        is_row = tf.reshape(indices == t, [-1, *[1] * x.shape.rank])
        return tf.ensure_shape(tf.where(is_row, tf.expand_dims(x, 0), rows), rows.shape)

    def body(t, state, sums, outputs):
        inputs = tf.nest.map_structure(lambda x: tf.gather(x, t), sequences)
        new_state, step_sums = step(inputs, state, weights)
        sums = tf.nest.map_structure(tf.add, sums, step_sums)
        outputs = [with_row(rows, t, x) for rows, x in zip(outputs, new_state, strict=False)]
        return t + 1, new_state, sums, outputs

    outputs = [tf.ensure_shape(rows_like(x), [None, *x.shape]) for x in state[:num_outputs]]
    _, state, sums, outputs = tf.while_loop(
        lambda t, *_: t < num_steps, body, (tf.constant(0), state, zeros, outputs)
    )
    return outputs, state, sums


def run_segments(step, sequences, state, weights, zeros, num_steps):
    """`run_steps` with recomputation: a loop over segments around the loop over steps."""
    length = tf.cast(tf.math.ceil(tf.sqrt(tf.cast(num_steps, tf.float32))), tf.int32)
    length = tf.maximum(length, 1)
    num_segments = tf.maximum(-(-num_steps // length), 1)
    segments = tf.nest.map_structure(lambda x: cut(x, length, num_segments), sequences)
    arrays = tf.nest.map_structure(array_of, segments)
    outputs = tf.TensorArray(
        state[0].dtype,
        num_segments,
        element_shape=[None, *state[0].shape],
        infer_shape=False,
    )

    def body(n, state, sums, outputs):
        inputs = tf.nest.map_structure(
            lambda array, x: tf.ensure_shape(array.read(n), x.shape[1:]), arrays, segments
        )
        size = tf.minimum(length, num_steps - n * length)
        (segment_outputs,), state, segment_sums = recomputed(
            lambda *tensors: run_loop(step, *tensors, zeros, size), inputs, state, weights
        )
        sums = tf.nest.map_structure(tf.add, sums, segment_sums)
        return n + 1, state, sums, outputs.write(n, segment_outputs)

    _, state, sums, outputs = tf.while_loop(
        lambda n, *_: n < num_segments,
        body,
        (tf.constant(0), state, zeros, outputs),
        maximum_iterations=num_segments,
        parallel_iterations=1,  # otherwise the backward pass computes several segments at once
    )
    return [outputs.concat()], state, sums


def recomputed(function, *structures):
    """Calls a function that the backward pass computes again.

    `tf.recompute_grad` accepts floating-point tensors only, so the others are captured.

    Args:
        function: a function of the structures; it returns a nested structure of tensors.
        *structures: nested structures of tensors.
    """
    tensors = tf.nest.flatten(structures)
    floating = [i for i, tensor in enumerate(tensors) if tensor.dtype.is_floating]
    result_structure = []

    @tf.recompute_grad
    def flat(*floats):
        values = list(tensors)
        for i, value in zip(floating, floats, strict=True):
            values[i] = tf.ensure_shape(value, tensors[i].shape)
        result = function(*tf.nest.pack_sequence_as(structures, values))
        result_structure[:] = [tf.nest.map_structure(lambda _: None, result)]
        return tuple(tf.nest.flatten(result))

    results = flat(*(tensors[i] for i in floating))
    return tf.nest.pack_sequence_as(result_structure[0], results)


def array_of(x):
    """A `tf.TensorArray` of the tensors along the first axis of `x`."""
    array = tf.TensorArray(x.dtype, tf.shape(x)[0], element_shape=x.shape[1:])
    return array.unstack(x)


def cut(x, length, num_segments):
    """Cuts `[S, ...]` into `[N, L, ...]`, with zeros (`False`) after the last step."""
    shape = tf.concat([[num_segments, length], tf.shape(x)[1:]], axis=0)
    padding = [[0, num_segments * length - tf.shape(x)[0]], *[[0, 0]] * (x.shape.rank - 1)]
    cut = tf.reshape(tf.pad(x, padding), shape)
    return tf.ensure_shape(cut, [None, None, *x.shape[1:]])
