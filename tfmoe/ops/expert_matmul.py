"""Matrix products in which each row has its expert's weights."""

import tensorflow as tf


def expert_ffn(x, counts, kernels, biases=None, activation=tf.nn.relu, recompute=False):
    num_experts = kernels[0].shape[0]
    rest = tf.shape(x)[0] - tf.reduce_sum(counts)
    sizes = tf.concat([counts, rest[None]], axis=0)
    rows = tf.split(x, sizes, num=num_experts + 1)
    unstacked = [tf.unstack(kernel) for kernel in kernels]
    bias = [tf.unstack(b) if b is not None else None for b in (biases or [None] * len(kernels))]
    outputs = []

    def one(h, ks, bs):
        for i, (k, b) in enumerate(zip(ks, bs)):
            h = tf.matmul(h, k)
            h = h if b is None else h + b
            h = activation(h) if i < len(ks) - 1 else h
        return h

    one = tf.recompute_grad(one) if recompute else one
    for e in range(num_experts):
        outputs.append(
            one(rows[e], [u[e] for u in unstacked], [b if b is None else b[e] for b in bias])
        )
    outputs.append(tf.zeros([rest, kernels[-1].shape[2]], x.dtype))
    return tf.concat(outputs, axis=0)


def grouped_matmul(x, counts, kernel):
    return expert_ffn(x, counts, [kernel])
