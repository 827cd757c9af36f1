"""Feed-forward experts whose kernels are packed, at inference.

Axes: A rows (assignments), E experts, I inputs, N outputs.
"""

from collections.abc import Sequence

import tensorflow as tf

from tfmoe.ops.expert_network import Network
from tfmoe.ops.expert_runners import Inputs, Outputs, looped
from tfmoe.ops.packed_weights import PackedWeight, packed_source

# Elements. Smaller matrices are unpacked for all experts together: a step of the loop over experts
# takes as long as unpacking so many.
SMALLEST_MATRIX = 2**15


def packed_kernels(kernels: Sequence[tf.Tensor]) -> list[PackedWeight] | None:
    """What the kernels were unpacked from; `None` if one is not packed or all are small.

    Args:
        kernels: stacks `[E, I, N]`.
    """
    sources = [packed_source(kernel) for kernel in kernels]
    packed = [source for source in sources if source is not None]
    is_large = any(kernel.shape[1:].num_elements() >= SMALLEST_MATRIX for kernel in kernels)
    return packed if is_large and len(packed) == len(kernels) else None


def packed_ffn(
    network: Network,
    counts: tf.Tensor,
    x: tf.Tensor,
    kernels: Sequence[PackedWeight],
    biases: Sequence[tf.Tensor],
) -> tf.Tensor:
    """`expert_ffn` without gradients. Experts without rows are not unpacked, and memory holds the
    unpacked matrices of a few experts.

    Args:
        network: the network of an expert, which keeps no hidden activations.
        counts: `[E]` int32, the rows of each expert.
        x: `[A, D]` floating point, rows sorted by expert.
        kernels: `PackedWeight`s of `[E, I, N]` with scales `[E, 1, N]`.
        biases: stacks `[E, N]`, or none.

    Returns:
        `[A, N]`, 0 in rows that belong to no expert.
    """
    parts = [part for kernel in kernels for part in kernel if part is not None]

    def step(rows, kept, parameters):
        parameters = iter(parameters)
        unstacked = [
            PackedWeight(next(parameters), None if kernel.scale is None else next(parameters))
            for kernel in kernels
        ]
        return network.forward(rows, kept, [*unstacked, *parameters])

    stacks = [tf.convert_to_tensor(part) for part in [*parts, *biases]]
    outputs = Outputs(kernels[-1].values.shape[-1], [], [])
    return looped(step, counts, Inputs([x], [], stacks), outputs, sequential=False)[0]
