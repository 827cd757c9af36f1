"""Variables with a different part on each replica: experts, and states of random generators."""

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib, values

from tfmoe.distribute.tensorflow_internals.collective_operations import host_sum
from tfmoe.distribute.tensorflow_internals.contexts import in_symbolic_call, replica_context

# The distance between the seeds of two replicas; a large prime, so that they do not coincide with
# other seeds of the user.
SEED_DISTANCE = 1_000_003


class _PartedVariable(values.DistributedVariable):
    """A variable with a different value on each replica.

    In a replica, reading returns the value of that replica. Outside of replicas, reading returns
    one logical value. Subclasses implement the conversion in both directions: `logical_value` and
    `divide`.
    """

    def __init__(self, strategy, parts):
        super().__init__(strategy, parts, tf.VariableAggregation.NONE)

    def logical_value(self):
        raise NotImplementedError

    def divide(self, value):
        """Returns the parts of a logical value for the local replicas."""
        raise NotImplementedError

    def local_parts(self):
        """Returns the `tf.Variable`s of the replicas of this process."""
        return self._values

    def _in_replica(self):
        return (
            replica_context() is not None or distribute_lib.get_update_replica_id() is not None
        ) and tf.distribute.get_strategy() is self._distribute_strategy

    def _get(self):
        return self._get_on_device_or_primary() if self._in_replica() else self.logical_value()

    _get_cross_replica = logical_value

    def _dense_var_to_tensor(self, dtype=None, name=None, as_ref=False):
        return tf.convert_to_tensor(self._get(), dtype=dtype, name=name)

    def value(self):
        return tf.convert_to_tensor(self._get())

    def read_value(self):
        return tf.identity(self._get())

    def numpy(self):
        return self.value().numpy()

    def _as_graph_element(self):
        return tf.convert_to_tensor(self._get())

    def _update_replica(self, update_fn, value, **kwargs):
        return update_fn(self._get_on_device_or_primary(), value, **kwargs)

    def _update(self, update_fn, value, **kwargs):
        if self._in_replica():
            return self._update_replica(update_fn, value, **kwargs)
        for variable, part in zip(self._values, self.divide(value), strict=True):
            with tf.device(variable.device):
                update_fn(variable, part, **{**kwargs, "read_value": False})
        return self


class ShardedVariable(_PartedVariable):
    """A variable whose first axis is sharded over the replicas.

    Args:
        strategy: the `MixedStrategy`.
        parts: the `tf.Variable`s of the replicas of this process.
        shape: the shape of the logical tensor.
        bounds: `(begin, end)` on the first axis, for every replica of the cluster.
    """

    def __init__(self, strategy, parts, shape, bounds):
        self.bounds = bounds
        self._whole_shape = tf.TensorShape(shape)
        super().__init__(strategy, parts)

    def local_bounds(self):
        """Returns `(begin, end)` for the parts of this process."""
        extended = self._distribute_strategy.extended
        first = extended._get_replica_id_in_sync_group(0)
        return self.bounds[first : first + len(self._values)]

    @property
    def shape(self):
        return self._whole_shape

    def get_shape(self):
        return self._whole_shape

    def logical_value(self):
        """Returns the logical tensor, `[E, …]`. With several workers this is a collective: every
        worker must call it.
        """
        if in_symbolic_call():
            return tf.raw_ops.Empty(shape=self.shape, dtype=self.dtype)  # only its shape is read
        whole = tf.concat([tf.convert_to_tensor(part) for part in self._values], axis=0)
        extended = self._distribute_strategy.extended
        if not extended._in_multi_worker_mode():
            return whole
        if not tf.executing_eagerly():
            raise ValueError(
                f"{self._common_name} is sharded over several workers: its logical value cannot be "
                "read in a graph outside of strategy.run"
            )
        begin, end = self.local_bounds()[0][0], self.local_bounds()[-1][1]
        paddings = [[begin, self.shape[0] - end]] + [[0, 0]] * (self.shape.rank - 1)
        return host_sum(self._distribute_strategy, tf.pad(whole, paddings))

    def divide(self, value):
        value = tf.convert_to_tensor(value)
        if value.shape.rank == 0:
            return [value] * len(self._values)
        return [value[begin:end] for begin, end in self.local_bounds()]

    def _export_to_saved_model_graph(self, *args, **kwargs):
        raise ValueError(
            f"{self._common_name} is sharded, but a SavedModel needs whole variables. Export a "
            "copy: tfmoe.distribute.on_one_device(model).export(path)"
        )

    def _update_replica(self, update_fn, value, **kwargs):
        part = self._get_on_device_or_primary()
        if getattr(value, "shape", None) == self.shape != part.shape:  # a logical value, e.g. zeros
            index = [variable is part for variable in self._values].index(True)
            value = self.divide(value)[index]
        return update_fn(part, value, **kwargs)


class ReplicaSeeds(_PartedVariable):
    """The state `[seed, counter]` of a random generator, with a different seed in each replica.

    The logical value is the state of replica 0, which draws the same numbers as a single device.
    """

    def logical_value(self):
        return self._values[0].value() - self._offsets()[0]

    def divide(self, value):
        value = tf.convert_to_tensor(value)
        return [value + offset for offset in self._offsets()]

    def _offsets(self):
        extended = self._distribute_strategy.extended
        return [
            tf.constant([extended._get_replica_id_in_sync_group(i) * SEED_DISTANCE, 0], self.dtype)
            for i in range(len(self._values))
        ]


def assign_rows(variable, begin, end, value):
    """Assigns rows of a `tf.Variable`, in place.

    Args:
        variable: `[E, …]`, without a strategy or a part of a `ShardedVariable`.
        begin, end: the first row, and the one behind the last.
        value: `[end - begin, …]`.
    """
    tf.raw_ops.ResourceStridedSliceAssign(
        ref=variable.handle,
        begin=[begin],
        end=[end],
        strides=[1],
        value=tf.cast(value, variable.dtype),
    )


def _as_tensor(variable, dtype=None, name=None, as_ref=False):
    return variable._dense_var_to_tensor(dtype=dtype, name=name, as_ref=as_ref)


for _cls in (ShardedVariable, ReplicaSeeds):
    tf.register_tensor_conversion_function(_cls, _as_tensor)
