"""Collective operations between replicas, and between workers outside of replicas."""

import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.ops import collective_ops

from tfmoe.distribute.tensorflow_internals.contexts import local_replica_index


def collective(name, x, replica):
    """Runs a collective operation in a replica.

    Args:
        name: `"sum"` adds up the `x` of all replicas; `"gather"` concatenates them along the first
            axis; `"exchange"` sends `x[i]` to replica i and returns y, where `y[i]` was sent by
            replica i.
        x: a tensor of known rank, with the same shape in all replicas.
        replica: the replica context.

    Returns:
        A tensor.
    """
    extended = replica.strategy.extended
    launcher = extended._cross_device_ops._launchers[local_replica_index(replica)]
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
    """Sums a tensor or number over the workers, outside of replicas."""
    extended = strategy.extended
    if not extended._in_multi_worker_mode():
        return x
    with tf.device(extended._worker_device):
        x = tf.identity(x)
    return extended._host_cross_device_ops.reduce(tf.distribute.ReduceOp.SUM, x, x)


def abort_collectives(message: str) -> None:
    """Aborts all collective operations of this process, including those in progress.

    Args:
        message: the message of the errors that they raise.
    """
    context.context().abort_collective_ops(tf.errors.DEADLINE_EXCEEDED, message)
