"""Few rows: each row is multiplied with a copy of the weights of its expert.

Axes: A rows (assignments), E experts, D model, N outputs.

The time is that of copying A experts, whatever the number of experts, and of a few operations. So
it suits eager code, where an operation takes longer than the product of a row with a small matrix.
Gradients of the weights are dense, `[E, …]`: they take time in proportion to E.
"""

import tensorflow as tf

from tfmoe.ops.expert_derivatives import reject_variables
from tfmoe.ops.segments import segment_ids

# The elements of weights that are copied in the time that eager code needs to start the operations
# of one expert.
ELEMENTS_PER_VISIT = 2**16


def is_fast(num_rows, stacks) -> bool:
    """Whether copies take less time than operations for each expert, in eager code.

    Args:
        num_rows: A, an integer.
        stacks: tensors `[E, ...]`.
    """
    num_experts = stacks[0].shape[0]
    elements = sum(stack.shape[1:].num_elements() for stack in stacks)
    return num_rows * elements <= ELEMENTS_PER_VISIT * min(num_rows, num_experts)


def copied_ffn(network, counts, x, stacks, keeps=()):
    """`expert_ffn` with copies. The backward pass makes them again; it has all derivatives.

    Args:
        network: `tfmoe.ops.expert_network.Network`.
        counts: `[E]` int32, the rows of each expert.
        x: `[A, D]`, rows sorted by expert.
        stacks: the kernels and biases, `[E, ...]`.
        keeps: as for `Network.layer_sums`, `[A, H]`.

    Returns:
        `[A, N]`; 0 in rows that belong to no expert.
    """
    experts = segment_ids(counts)
    num_rows, num_unused = tf.size(experts), tf.shape(x)[0] - tf.size(experts)

    def compute(x, *stacks):
        rows, *of_rows = (each[:num_rows, None] for each in (x, *keeps))
        y = network.batched(rows, [weights_of(stack, experts) for stack in stacks], of_rows)
        return tf.pad(y[:, 0], [[0, num_unused], [0, 0]])

    @tf.custom_gradient
    def ffn(*tensors):
        def gradient(dy, variables=None):
            reject_variables(variables)
            with tf.GradientTape() as tape:
                tape.watch(tensors)
                y = compute(*tensors)
            return tape.gradient(y, tensors, dy)

        return compute(*tensors), gradient

    return ffn(x, *stacks)


def weights_of(stack, experts):
    """The weights of some experts, `[E, ...]` to `[N, ...]`; the gradient is a dense tensor.

    Args:
        stack: `[E, ...]`.
        experts: `[N]` int32, the experts, which can repeat.
    """

    @tf.custom_gradient
    def gather(stack):
        def gradient(dcopies):
            return tf.math.unsorted_segment_sum(dcopies, experts, stack.shape[0])

        return tf.gather(stack, experts), gradient

    return gather(stack)
