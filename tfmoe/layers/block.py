"""What a model asks of the layers that it stacks: steps, operations, memory.

Axes: B batch, S steps, D model.
"""

from typing import ClassVar, NamedTuple

import keras


class Kept(NamedTuple):
    """What a layer keeps of one position for the backward pass, in bytes.

    Attributes:
        always: in any case.
        recomputable: hidden activations, which the backward pass can compute again instead.
        recomputes: whether the layer is set to compute them again.
    """

    always: int
    recomputable: int = 0
    recomputes: bool = False

    def total(self, recompute=None):
        """Bytes with recomputation or without; `None` for the layer's own setting."""
        again = self.recomputes if recompute is None else recompute
        return self.always + (0 if again else self.recomputable)


class Block(keras.layers.Layer):
    """Base class of layers `[B, S, D] → [B, S, D]` that models stack.

    The defaults are those of a layer that treats every position by itself. A subclass implements
    `call`, `ops_per_timestep` and `kept_for_backward`.

    A layer with `needs_memory` attends to the source of a translation:

    - `call(inputs, memory, memory_mask=None, return_attention=False, training=False)`;
    - `prepared(memory, memory_mask=None)` makes once for a sentence whatever every step needs;
    - `step(inputs, state, prepared)` also returns its attention, `[B, S]` float32.

    What `prepared` returns is not part of the state: a beam search copies states at every step.

    Attributes:
        residual_activation: what the paper puts around the output, before dropout and the residual
            connection; `None` for nothing.
        is_causal: whether no position sees a later one. Padding at the end of a sentence then
            reaches no real step, and models give the layer no mask. A layer with a mixture in it
            needs the mask and is none, so that padding takes no expert.
        needs_memory: whether it attends to a source.
        BLOCK_ARGUMENTS: the constructor's arguments that a model sets.
    """

    residual_activation: str | None = None
    is_causal = False
    needs_memory = False
    BLOCK_ARGUMENTS: ClassVar[dict[str, bool]] = {}

    def initial_state(self, batch_size):
        """What `step` gets before the first step: a nested structure of tensors `[B, …]`, whose
        shapes every step keeps. Empty for a layer without state.

        Args:
            batch_size: B, an integer or a scalar tensor.
        """
        return ()

    def step(self, inputs, state):
        """One step at evaluation; step by step a layer gives what a call gives.

        Args:
            inputs: `[B, D]`.
            state: `initial_state`, or what the step before returned.

        Returns:
            Output `[B, D]` and the new state.
        """
        return self(inputs), state

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token by the paper's count: all matrices that are computed."""
        raise NotImplementedError(
            f"{self.name}, a {type(self).__name__}, must implement ops_per_timestep(input_dim) to "
            "be counted"
        )

    def gate_ops_per_timestep(self, input_dim):
        """How many of `ops_per_timestep` are those of gates."""
        return 0

    def kept_for_backward(self, input_dim, steps=0):
        """What the backward pass needs of the forward pass.

        Args:
            input_dim: D.
            steps: positions that a position attends to, if it attends to any.

        Returns:
            `Kept`, for one position.
        """
        raise NotImplementedError(
            f"{self.name}, a {type(self).__name__}, must implement "
            "kept_for_backward(input_dim, steps) for its memory to be counted"
        )

    def kept_of_source(self, input_dim):
        """Bytes that a layer with `needs_memory` keeps of one source position."""
        return 0
