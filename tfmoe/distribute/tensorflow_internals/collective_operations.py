"""Collective operations: between replicas, and between workers outside of their replicas."""

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import collective_ops

from tfmoe.distribute.tensorflow_internals.contexts import local_replica


def collective(name, x, found):
    """Runs a collective operation in a replica.

    Args:
        name: `"sum"`: of `x` of all replicas; `"gather"`: `x` of all replicas, concatenated along
            the first axis; `"exchange"`: `x[i]` goes to replica i, `y[i]` comes from replica i.
        x: a tensor, of the same shape in all replicas; of known rank.
        found: the replica context.

    Returns:
        A tensor.
    """
    extended = found.strategy.extended
    launcher = extended._cross_device_ops._launchers[local_replica(found)]
    if name == "sum":
        return launcher.all_reduce(x)
    arguments = {
        "group_size": launcher._group_size,
        "group_key": launcher._group_key,
        "instance_key": launcher._next_instance_key(),
        "communication_hint": launcher._options.implementation.value,
        "ordering_token": launcher._get_ordering_token(),
    }
    operations = {"gather": collective_ops.all_gather_v2, "exchange": collective_ops.all_to_all_v2}
    with tf.device(launcher._device):
        return operations[name](x, **arguments)


def host_sum(strategy, x):
    """The sum of a tensor or number over the workers, outside of their replicas."""
    extended = strategy.extended
    if not extended._in_multi_worker_mode():
        return x
    with tf.device(extended._worker_device):
        x = tf.identity(x)
    return extended._host_cross_device_ops.reduce(tf.distribute.ReduceOp.SUM, x, x)


def abort_collectives(message):
    """Makes all collective operations of this process fail, those that are waiting too."""
    context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, message)
