"""Communication between the replicas of a `MixedStrategy`.

Outside of its replicas, and where there is only one, every function gives what it would give for a
single device: code that uses them runs anywhere.

Axes: R replicas.
"""

import tensorflow as tf

from tfmoe.distribute import tensorflow_internals
from tfmoe.distribute.workers import is_mixed


def _meeting():
    """The replica context of a `MixedStrategy` with more than one replica, or `None`."""
    found = tensorflow_internals.replica_context()
    if found is None or not is_mixed(found.strategy):
        return None
    if found.num_replicas_in_sync == 1:
        return None
    if tf.executing_eagerly():
        raise ValueError(
            "the replicas of a MixedStrategy can only meet in a graph: call strategy.run within a "
            "tf.function, and compile Keras models with run_eagerly=False"
        )
    return found


def in_step():
    """Whether code runs in a step of `fit`, `evaluate` or `predict`, or else in `strategy.run`."""
    return tensorflow_internals.in_step()


def num_replicas():
    """R, 1 outside of the replicas of a `MixedStrategy`."""
    found = _meeting()
    return 1 if found is None else found.num_replicas_in_sync


def replica_id():
    """The replica that this code runs in, a Python integer from 0 to R - 1."""
    found = _meeting()
    if found is None:
        return 0
    local = tensorflow_internals.local_replica(found)
    return found.strategy.extended._get_replica_id_in_sync_group(local)


def all_reduce_sum(x):
    """The sum over all replicas; differentiable.

    Args:
        x: tensor, of the same shape in every replica.

    Returns:
        Like `x`. With a loss that every replica computes from it, each replica's gradient is that
        of the sum of all their losses.
    """
    found = _meeting()
    if found is None:
        return x

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
    parts = tf.split(flat, [tf.reduce_prod(shape) for shape in shapes])
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
    found = _meeting()
    if found is None:
        return x

    @tf.custom_gradient
    def exchange(x):
        return sent(x), sent

    def sent(x):
        # TensorFlow's operation crashes the process where there is nothing to send.
        replicas, size = found.num_replicas_in_sync, tf.size(x)
        parts = tf.reshape(x, [replicas, size // replicas])
        parts = tf.pad(parts, [[0, 0], [0, tf.cast(tf.equal(size, 0), tf.int32)]])
        arrived = tensorflow_internals.collective("exchange", parts, found)[:, : size // replicas]
        return tf.ensure_shape(tf.reshape(arrived, tf.shape(x)), x.shape)

    return exchange(x)


def all_gather(x):
    """`[R, ...]`: the `x` of all replicas, which must have the same shape. No gradient."""
    x = tf.stop_gradient(x)[None]
    found = _meeting()
    return x if found is None else tensorflow_internals.collective("gather", x, found)
