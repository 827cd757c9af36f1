"""The base class of layers that models stack: steps, operation counts, memory.

Axes: B batch, S steps, D model.
"""

from typing import ClassVar, NamedTuple

import keras
import tensorflow as tf


class Kept(NamedTuple):
    """The bytes that a layer keeps per position for the backward pass.

    Attributes:
        always: bytes kept with or without recomputation.
        recomputable: bytes of hidden activations, which the backward pass can compute again.
        recomputes: whether the layer is configured to compute them again.
    """

    always: int
    recomputable: int = 0
    recomputes: bool = False

    def total(self, recompute=None):
        """Returns the bytes with or without recomputation; `None` for the layer's setting."""
        recomputes = self.recomputes if recompute is None else recompute
        return self.always + (0 if recomputes else self.recomputable)


class Block(keras.layers.Layer):
    """Base class of layers `[B, S, D] → [B, S, D]` that models stack.

    A subclass implements `call`, `ops_per_timestep` and `kept_for_backward`. The other methods have
    defaults for layers that compute every position independently.

    A layer with `needs_memory` attends to the source of a translation:

    - `call(inputs, memory, memory_mask=None, return_attention=False, training=False)`;
    - `prepared(memory, memory_mask=None)` computes, once for a sentence, the tensors that all steps
      share;
    - `step(inputs, state, prepared)` also returns the attention weights, `[B, S]` float32.

    The result of `prepared` is not part of the state, because a beam search copies states in every
    step.

    Attributes:
        residual_activation: the activation that the paper applies to the output, before dropout and
            the residual connection; `None` for none.
        is_causal: whether no position depends on a later one. Padding at the end of a sentence then
            cannot affect real steps, and models pass no mask to the layer. It is false for a layer
            with a mixture, which needs the mask so that padding is not routed.
        reads_later: whether a position depends on later ones, so that the layer can only be in an
            encoder, and has no `step`.
        needs_memory: whether the layer attends to a source.
        needs_token_ids: whether the layer reads the token ids too. Models then pass them to `call`
            (`[B, S]`) and `step` (`[B]`) as `gate_inputs`.
        BLOCK_ARGUMENTS: the constructor arguments that a model sets.

    Example:
        >>> class Scale(Block):
        ...     def call(self, inputs):
        ...         return 2 * inputs
        ...     def ops_per_timestep(self, input_dim):
        ...         return 0
        >>> Scale()(tf.ones([1, 2, 3])).shape
        TensorShape([1, 2, 3])
    """

    residual_activation: str | None = None
    is_causal = False
    reads_later = False
    needs_memory = False
    needs_token_ids = False
    BLOCK_ARGUMENTS: ClassVar[dict[str, bool]] = {}

    def initial_state(self, batch_size: int | tf.Tensor):
        """Returns the state before the first step: a nested structure of tensors `[B, …]`. All
        states have the same shapes. Empty for a layer without state.

        A layer whose state grows with the number of steps, such as a cache, takes a second argument
        `max_length`, the maximum number of steps, an integer or a scalar tensor.

        Args:
            batch_size: B, an integer or a scalar tensor.
        """
        return ()

    def step(self, inputs: tf.Tensor, state) -> tuple:
        """Computes one step in evaluation. All steps together give the result of a call.

        Args:
            inputs: `[B, D]`.
            state: `initial_state`, or the state that the previous step returned.

        Returns:
            Output `[B, D]` and the new state.
        """
        return self(inputs), state

    def ops_per_timestep(self, input_dim: int) -> int:
        """Multiply-adds for one token in the paper's count: all matrix products.

        Args:
            input_dim: D.
        """
        raise NotImplementedError(
            f"{self.name}, a {type(self).__name__}, must implement ops_per_timestep(input_dim), "
            "from which the operations of a model are counted"
        )

    def gate_ops_per_timestep(self, input_dim: int) -> int:
        """The part of `ops_per_timestep` that gates compute."""
        return 0

    def kept_for_backward(self, input_dim: int, steps: int = 0) -> Kept:
        """The memory that the forward pass keeps for the backward pass, per position.

        Args:
            input_dim: D.
            steps: the number of positions that a position attends to, if any.
        """
        raise NotImplementedError(
            f"{self.name}, a {type(self).__name__}, must implement "
            "kept_for_backward(input_dim, steps), from which the memory of a model is counted"
        )

    def kept_of_source(self, input_dim: int) -> int:
        """The bytes that a layer with `needs_memory` keeps per source position."""
        return 0
