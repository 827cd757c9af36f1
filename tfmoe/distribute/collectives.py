"""Communication between the replicas of a `tf.distribute` strategy.

Outside of replicas, and with only one replica, every function returns the result for a single
device, so code that calls them runs anywhere. In the replicas of a `MixedStrategy` they call
TensorFlow's collective operations. In the replicas of any other strategy they call the methods of
its replica context, with the same values and gradients.

Axes: R replicas.
"""

import tensorflow as tf

from tfmoe.distribute import tensorflow_internals
from tfmoe.distribute.workers import is_mixed


def _replica_context():
    """The current replica context; `None` if there are no other replicas."""
    context = tensorflow_internals.replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    if is_mixed(context.strategy) and tf.executing_eagerly():
        raise ValueError(
            "MixedStrategy's collectives need graph mode: call strategy.run inside a tf.function, "
            "and compile Keras models with run_eagerly=False"
        )
    return context


def _collective_context():
    """`_replica_context` for a collective operation.

    Raises:
        ValueError: the code runs in the body of a `tf.while_loop`, where collectives would hang.
    """
    context = _replica_context()
    if context is not None and tensorflow_internals.in_while_loop():
        raise ValueError(
            "replicas cannot communicate inside a tf.while_loop: unroll the loop (keras.layers.RNN "
            "with unroll=True), use gate_from='input' in a MoELSTM whose gate is hierarchical or "
            "counts the tokens of all replicas, and compile models with steps_per_execution=1"
        )
    return context


def in_step() -> bool:
    """Whether code runs in a step of `fit`, `evaluate` or `predict`, or in `strategy.run`."""
    return tensorflow_internals.in_step()


def shards_experts() -> bool:
    """Whether each replica holds a shard of the experts: true in the replicas of a `MixedStrategy`
    with two or more. Everywhere else each replica holds all experts.
    """
    context = _replica_context()
    return context is not None and is_mixed(context.strategy)


def num_replicas() -> int:
    """R; 1 outside of replicas."""
    context = _replica_context()
    return 1 if context is None else context.num_replicas_in_sync


def replica_id() -> int | tf.Tensor:
    """The index of the current replica, 0 to R - 1.

    It is a Python integer, or an int32 scalar under a strategy that traces one function for all
    replicas (TPU).
    """
    context = _replica_context()
    if context is None:
        return 0
    if is_mixed(context.strategy):
        return tensorflow_internals.global_replica_index(context)
    index = tf.get_static_value(context.replica_id_in_sync_group)
    return context.replica_id_in_sync_group if index is None else int(index)


def all_reduce_sum(x: tf.Tensor) -> tf.Tensor:
    """Sums a tensor over all replicas; differentiable.

    Args:
        x: tensor with the same shape in every replica.

    Returns:
        The sum. If every replica computes a loss from it, the gradient in each replica is that of
        the sum of all these losses.
    """
    context = _collective_context()
    if context is None:
        return x
    if not is_mixed(context.strategy):  # its gradient is also the sum
        return context.all_reduce(tf.distribute.ReduceOp.SUM, x)

    @tf.custom_gradient
    def reduce(x):
        return tensorflow_internals.collective(
            "sum", x, context
        ), lambda dy: tensorflow_internals.collective("sum", dy, context)

    return reduce(x)


def all_reduce_sums(*tensors: tf.Tensor) -> tuple:
    """`all_reduce_sum` of several tensors of one dtype, in one operation."""
    if num_replicas() == 1:
        return tensors
    shapes = [tf.shape(tensor) for tensor in tensors]
    flat = all_reduce_sum(tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0))
    parts = tf.split(flat, [tf.size(tensor) for tensor in tensors])
    return tuple(
        tf.ensure_shape(tf.reshape(part, shape), tensor.shape)
        for part, shape, tensor in zip(parts, shapes, tensors, strict=True)
    )


def all_to_all(x: tf.Tensor) -> tf.Tensor:
    """Sends `x[i]` to replica i; differentiable.

    Args:
        x: `[R, ...]`, the same shape in every replica.

    Returns:
        `[R, ...]` like `x`: row i was sent by replica i.
    """
    context = _collective_context()
    if context is None:
        return x
    send = _exchange if is_mixed(context.strategy) else _exchange_by_gathering

    @tf.custom_gradient
    def exchange(x):
        return send(x, context), lambda dy: send(dy, context)

    return exchange(x)


def _exchange(x, context):
    replicas, size = context.num_replicas_in_sync, tf.size(x)
    parts = _at_least_one_column(tf.reshape(x, [replicas, size // replicas]))
    received = tensorflow_internals.collective("exchange", parts, context)[:, : size // replicas]
    return tf.ensure_shape(tf.reshape(received, tf.shape(x)), x.shape)


def _exchange_by_gathering(x, context):
    return tf.ensure_shape(_gather(x, context)[:, replica_id()], x.shape)


def all_gather(x: tf.Tensor) -> tf.Tensor:
    """Stacks the `x` of all replicas, which must have the same shape, to `[R, ...]`. It has no
    gradient.
    """
    x = tf.stop_gradient(x)
    context = _collective_context()
    return x[None] if context is None else _gather(x, context)


def _gather(x, context):
    row = _at_least_one_column(tf.reshape(x, [1, tf.size(x)]))
    if is_mixed(context.strategy):
        rows = tensorflow_internals.collective("gather", row, context)
    else:
        rows = context.all_gather(row, axis=0)
    shape = tf.concat([[context.num_replicas_in_sync], tf.shape(x)], axis=0)
    gathered = tf.reshape(rows[:, : tf.size(x)], shape)
    return tf.ensure_shape(gathered, [context.num_replicas_in_sync, *x.shape])


def _at_least_one_column(x):
    """Pads empty rows: TensorFlow's operations crash the process if there is nothing to send."""
    return tf.pad(x, [[0, 0], [0, tf.cast(tf.equal(tf.shape(x)[1], 0), tf.int32)]])
