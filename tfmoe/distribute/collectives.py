"""Communication between the replicas of a `tf.distribute` strategy.

Outside of replicas, and where there is only one, every function gives what it would give for a
single device: code that uses them runs anywhere. In the replicas of a `MixedStrategy` they call
TensorFlow's collective operations, in those of any other strategy the methods of its replica
context, with the same values and gradients.

Axes: R replicas.
"""

import tensorflow as tf

from tfmoe.distribute import tensorflow_internals
from tfmoe.distribute.workers import is_mixed


def _replicas():
    """The replica context that code runs in, or `None` where there are no other replicas."""
    found = tensorflow_internals.replica_context()
    if found is None or found.num_replicas_in_sync == 1:
        return None
    if is_mixed(found.strategy) and tf.executing_eagerly():
        raise ValueError(
            "MixedStrategy's collectives need graph mode: call strategy.run inside a tf.function, "
            "and compile Keras models with run_eagerly=False"
        )
    return found


def _communicating():
    """`_replicas`, where they can communicate.

    Raises:
        ValueError: in the body of a `tf.while_loop`, where collectives would wait for ever.
    """
    found = _replicas()
    if found is not None and tensorflow_internals.in_while_loop():
        raise ValueError(
            "replicas cannot communicate inside a tf.while_loop: unroll the loop (keras.layers.RNN "
            "with unroll=True), and compile models with steps_per_execution=1"
        )
    return found


def in_step():
    """Whether code runs in a step of `fit`, `evaluate` or `predict`, or else in `strategy.run`."""
    return tensorflow_internals.in_step()


def shards_experts():
    """Whether each replica holds a part of the experts: in the replicas of a `MixedStrategy` with
    more than one. Everywhere else each replica holds all of them.
    """
    found = _replicas()
    return found is not None and is_mixed(found.strategy)


def num_replicas():
    """R; 1 outside of replicas."""
    found = _replicas()
    return 1 if found is None else found.num_replicas_in_sync


def replica_id():
    """The replica that this code runs in, 0 to R - 1: a Python integer, or an int32 scalar under a
    strategy that traces one function for all replicas (TPU).
    """
    found = _replicas()
    if found is None:
        return 0
    if is_mixed(found.strategy):
        return tensorflow_internals.replica_number(found)
    number = tf.get_static_value(found.replica_id_in_sync_group)
    return found.replica_id_in_sync_group if number is None else int(number)


def all_reduce_sum(x):
    """The sum over all replicas; differentiable.

    Args:
        x: tensor, of the same shape in every replica.

    Returns:
        Like `x`. With a loss that every replica computes from it, each replica's gradient is that
        of the sum of all their losses.
    """
    found = _communicating()
    if found is None:
        return x
    if not is_mixed(found.strategy):  # differentiable, by the same rule
        return found.all_reduce(tf.distribute.ReduceOp.SUM, x)

    @tf.custom_gradient
    def reduce(x):
        return tensorflow_internals.collective(
            "sum", x, found
        ), lambda dy: tensorflow_internals.collective("sum", dy, found)

    return reduce(x)


def all_reduce_sums(*tensors):
    """`all_reduce_sum` of several tensors of one type, in one operation."""
    if num_replicas() == 1:
        return tensors
    shapes = [tf.shape(each) for each in tensors]
    flat = all_reduce_sum(tf.concat([tf.reshape(each, [-1]) for each in tensors], axis=0))
    parts = tf.split(flat, [tf.size(each) for each in tensors])
    return tuple(
        tf.ensure_shape(tf.reshape(part, shape), each.shape)
        for part, shape, each in zip(parts, shapes, tensors, strict=True)
    )


def all_to_all(x):
    """Sends `x[i]` to replica i; differentiable.

    Args:
        x: `[R, ...]`, of the same shape in every replica.

    Returns:
        Like `x`: `y[i]` came from replica i.
    """
    found = _communicating()
    if found is None:
        return x
    send = _exchange if is_mixed(found.strategy) else _exchange_by_gathering

    @tf.custom_gradient
    def exchange(x):
        return send(x, found), lambda dy: send(dy, found)

    return exchange(x)


def _exchange(x, found):
    replicas, size = found.num_replicas_in_sync, tf.size(x)
    parts = _at_least_one_column(tf.reshape(x, [replicas, size // replicas]))
    arrived = tensorflow_internals.collective("exchange", parts, found)[:, : size // replicas]
    return tf.ensure_shape(tf.reshape(arrived, tf.shape(x)), x.shape)


def _exchange_by_gathering(x, found):
    return tf.ensure_shape(_gather(x, found)[:, replica_id()], x.shape)


def all_gather(x):
    """`[R, ...]`: the `x` of all replicas, which must have the same shape. No gradient."""
    x = tf.stop_gradient(x)
    found = _communicating()
    return x[None] if found is None else _gather(x, found)


def _gather(x, found):
    row = _at_least_one_column(tf.reshape(x, [1, tf.size(x)]))
    if is_mixed(found.strategy):
        rows = tensorflow_internals.collective("gather", row, found)
    else:
        rows = found.all_gather(row, axis=0)
    shape = tf.concat([[found.num_replicas_in_sync], tf.shape(x)], axis=0)
    every = tf.reshape(rows[:, : tf.size(x)], shape)
    return tf.ensure_shape(every, [found.num_replicas_in_sync, *x.shape])


def _at_least_one_column(x):
    """TensorFlow's operations crash the process where there is nothing to send."""
    return tf.pad(x, [[0, 0], [0, tf.cast(tf.equal(tf.shape(x)[1], 0), tf.int32)]])
