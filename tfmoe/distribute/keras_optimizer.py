"""Keras' optimizers under a `MixedStrategy`.

Keras clips what each replica computed, and only then sums over the replicas; and it sums every
gradient. Here gradients are summed first, so that clipping and accumulation see those of the global
batch, and those of sharded variables are left alone: they are whole already, for every replica's
examples reached the expert. Norms count every shard.

Moving averages of weights are kept, and put in the weights' place, part by part.

Keras has no hook for this, so `install` replaces methods of its base class. An optimizer that was
not created under a `MixedStrategy` runs Keras' own, and is refused in the replicas of one.
"""

import keras
import tensorflow as tf

from tfmoe.distribute import collectives, tensorflow_internals
from tfmoe.distribute.keras_methods import replace
from tfmoe.distribute.workers import is_mixed


def install():
    """Replaces the methods, once."""
    for name, (applies, replacement) in REPLACED.items():
        replace(keras.optimizers.Optimizer, name, applies, replacement)


def _apply_gradients(optimizer, original, grads, trainable_variables):
    variables = [getattr(variable, "value", variable) for variable in trainable_variables]
    of_shards = [is_sharded(variable) for variable in variables]
    replicated = [grad for grad, sharded in zip(grads, of_shards, strict=True) if not sharded]
    summed = iter(
        tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, replicated)
        if replicated
        else ()
    )
    grads = [
        grad if sharded else next(summed) for grad, sharded in zip(grads, of_shards, strict=True)
    ]
    # `_clip_gradients` gets the gradients alone, in this order.
    optimizer._gradients_of_shards = tuple(of_shards)
    return original(grads, trainable_variables)


def is_sharded(variable):
    """Whether a `tf.Variable`, as Keras' optimizers have it, is sharded."""
    return isinstance(variable, tensorflow_internals.ShardedVariable)


def _gradients_as_they_are(optimizer, original, grads_and_vars):
    return list(grads_and_vars)


def _clip_gradients(optimizer, original, grads):
    limit = optimizer.clipnorm or optimizer.global_clipnorm
    if not limit or limit <= 0:
        return original(grads)  # by value, or not at all
    of_shards = tf.constant(optimizer._gradients_of_shards)
    squares = tf.stack([sum_of_squares(grad) for grad in grads])
    zeros = tf.zeros_like(squares)
    of_all_shards = collectives.all_reduce_sum(tf.where(of_shards, squares, zeros))
    norms = tf.sqrt(tf.where(of_shards, of_all_shards, squares))
    if optimizer.clipnorm and optimizer.clipnorm > 0:
        factors = tf.unstack(limit / tf.maximum(norms, limit))
        return [scaled(grad, factor) for grad, factor in zip(grads, factors, strict=True)]
    norm = tf.norm(norms)
    return [grad * (limit / tf.maximum(norm, limit)) for grad in grads]


def sum_of_squares(grad):
    """Of a tensor, or of the rows of `tf.IndexedSlices` as they stand there, as Keras has it."""
    values = grad.values if isinstance(grad, tf.IndexedSlices) else grad
    return tf.reduce_sum(tf.square(values))


def scaled(grad, factor):
    """`grad · factor`; of `tf.IndexedSlices` these again, where a product would be dense."""
    if isinstance(grad, tf.IndexedSlices):
        return tf.IndexedSlices(grad.values * factor, grad.indices, grad.dense_shape)
    return grad * factor


def _update_averages(optimizer, original, variables):
    if not optimizer.use_ema:
        return
    started = tf.not_equal(optimizer.iterations.value, 0)
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
    """Raises a ValueError for an optimizer that was made outside of a strategy's scope."""
    if optimizer._distribution_strategy is not strategy:
        raise ValueError(
            f"optimizer {optimizer.name!r} was made outside of this MixedStrategy.scope(): make "
            "the optimizer inside `with strategy.scope():`"
        )


def _refuse_strangers(optimizer, original, *args, **options):
    check_scope(optimizer, tf.distribute.get_strategy())
    return original(*args, **options)


def _under_mixed_strategy(optimizer):
    return is_mixed(tf.distribute.get_strategy())


def _in_replicas(optimizer):
    return collectives.shards_experts()


def _of_mixed_strategy(optimizer):
    return is_mixed(getattr(optimizer, "_distribution_strategy", None))


# Method: when it is replaced, by what.
REPLACED = {
    "apply": (_under_mixed_strategy, _refuse_strangers),
    "add_variable_from_reference": (_under_mixed_strategy, _refuse_strangers),
    "_backend_apply_gradients": (_in_replicas, _apply_gradients),
    "_all_reduce_sum_gradients": (_in_replicas, _gradients_as_they_are),
    "_clip_gradients": (_in_replicas, _clip_gradients),
    "_update_model_variables_moving_average": (_of_mixed_strategy, _update_averages),
    "_overwrite_model_variables_with_average_value": (_of_mixed_strategy, _use_averages),
}
