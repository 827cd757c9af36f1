"""Keras' optimizers under a `MixedStrategy`.

Keras clips the gradients of each replica before it sums them, and it sums every gradient. Here
gradients are summed first, so that clipping and accumulation use those of the global batch.
Gradients of sharded variables are not summed: they are complete already, because the tokens of
every replica reached the expert. Norms include every shard.

In the gradient of a table, such as an embedding, rows of the same index are added up, for any
number of replicas: see `table_gradients`.

Moving averages of weights are updated, and copied to the weights, shard by shard.

Keras has no hook for this, so `install` replaces methods of its base class. An optimizer that was
not created under a `MixedStrategy` uses Keras' methods, and raises an error in the replicas of one.
"""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives, tensorflow_internals
from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.static_shapes import static_shapes
from tfmoe.distribute.table_gradients import sum_over_replicas
from tfmoe.distribute.workers import is_mixed
from tfmoe.ops.tables import sum_rows


def install():
    """Replaces the methods, once."""
    for name, (applies, replacement) in REPLACED.items():
        replace(keras.optimizers.Optimizer, name, applies, replacement)


def _apply_gradients(optimizer, original, grads, trainable_variables):
    if not collectives.shards_experts():
        return original([sum_rows(grad, static_shapes()) for grad in grads], trainable_variables)
    variables = [getattr(variable, "value", variable) for variable in trainable_variables]
    sharded_flags = [is_sharded(variable) for variable in variables]
    # `_clip_gradients` gets the gradients without the variables, in this order.
    optimizer._sharded_flags = tuple(sharded_flags)
    return original(summed_gradients(grads, sharded_flags), trainable_variables)


def summed_gradients(grads, sharded_flags):
    """Sums gradients over the replicas.

    Args:
        grads: tensors or `tf.IndexedSlices`.
        sharded_flags: whether the variable of each gradient is sharded. These gradients are
            complete, and returned unchanged.
    """
    tables = [i for i, grad in enumerate(grads) if isinstance(grad, tf.IndexedSlices)]
    tables = [i for i in tables if not sharded_flags[i]]
    dense = [i for i, sharded in enumerate(sharded_flags) if not sharded and i not in tables]
    result = list(grads)
    if dense:
        context = tf.distribute.get_replica_context()
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, [grads[i] for i in dense])
        for i, total in zip(dense, sums, strict=True):
            result[i] = total
    for i, total in zip(tables, sum_over_replicas([grads[i] for i in tables]), strict=True):
        result[i] = total
    return result


def is_sharded(variable):
    """Whether a `tf.Variable`, as Keras passes it to an optimizer, is sharded."""
    return isinstance(variable, tensorflow_internals.ShardedVariable)


def _skip_all_reduce(optimizer, original, grads_and_vars):
    return list(grads_and_vars)


def _clip_gradients(optimizer, original, grads):
    limit = optimizer.clipnorm or optimizer.global_clipnorm
    if not limit or limit <= 0:
        return original(grads)  # clips by value, or not at all
    is_shard = tf.constant(optimizer._sharded_flags)
    squares = tf.stack([sum_of_squares(grad) for grad in grads])
    zeros = tf.zeros_like(squares)
    shard_sums = collectives.all_reduce_sum(tf.where(is_shard, squares, zeros))
    norms = tf.sqrt(tf.where(is_shard, shard_sums, squares))
    if optimizer.clipnorm and optimizer.clipnorm > 0:
        factors = tf.unstack(limit / tf.maximum(norms, limit))
        return [scaled(grad, factor) for grad, factor in zip(grads, factors, strict=True)]
    norm = tf.norm(norms)
    return [scaled(grad, limit / tf.maximum(norm, limit)) for grad in grads]


def sum_of_squares(grad):
    """The sum of squares of a tensor, or of the rows of `tf.IndexedSlices`, whose indices must not
    repeat.
    """
    values = grad.values if isinstance(grad, tf.IndexedSlices) else grad
    return tf.reduce_sum(tf.square(values))


def scaled(grad, factor):
    """`grad · factor`; `tf.IndexedSlices` stay sparse, where a product would be dense."""
    if isinstance(grad, tf.IndexedSlices):
        return tf.IndexedSlices(grad.values * factor, grad.indices, grad.dense_shape)
    return grad * factor


def _update_averages(optimizer, original, variables):
    if not optimizer.use_ema:
        return
    started = tf.not_equal(tf.convert_to_tensor(optimizer.iterations), 0)
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        if average is not None:
            momentum = tf.cast(started, average.dtype) * optimizer.ema_momentum
            kept, added = momentum * average.value, (1 - momentum) * variable.value
            average.value.assign(kept + added)


def _use_averages(optimizer, original, variables):
    for variable, average in zip(variables, optimizer._model_variables_moving_average, strict=True):
        if average is not None:
            getattr(variable, "value", variable).assign(tf.convert_to_tensor(average.value))


def check_scope(optimizer, strategy):
    """Raises a `ValueError` for an optimizer that was created outside of a strategy's scope."""
    if optimizer._distribution_strategy is not strategy:
        raise ValueError(
            f"optimizer {optimizer.name!r} was created outside of this MixedStrategy.scope(): "
            "create the optimizer inside `with strategy.scope():`"
        )


def _check_scope_first(optimizer, original, *args, **options):
    check_scope(optimizer, tf.distribute.get_strategy())
    return original(*args, **options)


def _under_mixed_strategy(optimizer):
    return is_mixed(tf.distribute.get_strategy())


def _in_replicas(optimizer):
    return collectives.shards_experts()


def _in_steps(optimizer):
    """In replicas, one or more."""
    return _under_mixed_strategy(optimizer) and not tf.distribute.in_cross_replica_context()


def _created_under_mixed_strategy(optimizer):
    return is_mixed(getattr(optimizer, "_distribution_strategy", None))


# Method: when the replacement applies, and the replacement.
REPLACED = {
    "apply": (_under_mixed_strategy, _check_scope_first),
    "add_variable_from_reference": (_under_mixed_strategy, _check_scope_first),
    "_backend_apply_gradients": (_in_steps, _apply_gradients),
    "_all_reduce_sum_gradients": (_in_steps, _skip_all_reduce),
    "_clip_gradients": (_in_replicas, _clip_gradients),
    "_update_model_variables_moving_average": (_created_under_mixed_strategy, _update_averages),
    "_overwrite_model_variables_with_average_value": (_created_under_mixed_strategy, _use_averages),
}
