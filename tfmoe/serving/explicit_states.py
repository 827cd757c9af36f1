"""The states of a model's blocks as named inputs and outputs of a step.

Axes: N rows.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf


class States:
    """The states of blocks, which a client passes from step to step.

    Args:
        initial: a function of N and of the maximum number of steps, scalar int32 tensors, that
            returns the states before the first step: a nested structure of tensors `[N, …]`. All
            are zeros, so that a client can make them.

    Attributes:
        inputs: list of named `tf.TensorSpec`: `state_0`, `state_1`, … A dimension besides the first
            that is `None` is the maximum number of steps, which the client chooses.

    Raises:
        ValueError: if a state before the first step is not zero.
    """

    def __init__(self, initial: Callable):
        self._initial = initial
        if any(tf.reduce_any(state != 0) for state in tf.nest.flatten(initial(1, 1))):
            raise ValueError("the states before the first step must be zeros in this format")
        self.inputs: list[tf.TensorSpec] = []

        @tf.function(input_signature=[tf.TensorSpec([], tf.int32)] * 2, autograph=False)
        def describe(num_rows, max_length):
            self._structure = initial(num_rows, max_length)
            for index, state in enumerate(tf.nest.flatten(self._structure)):
                spec = tf.TensorSpec([None, *state.shape[1:]], state.dtype, f"state_{index}")
                self.inputs.append(spec)

        describe.get_concrete_function()

    def initial(self, num_rows, max_length=None):
        """The states before the first step of N rows."""
        return self._initial(num_rows, max_length)

    def packed(self, states):
        """Restores the structure of a sequence of states, which are in the order of `inputs`."""
        return tf.nest.pack_sequence_as(self._structure, list(states))

    def outputs(self, states):
        """`{name: state}` of new states, `next_state_0`, …"""
        return {
            f"next_{spec.name}": tf.identity(state)
            for spec, state in zip(self.inputs, tf.nest.flatten(states), strict=True)
        }


def zeros(specs, num_rows, max_length):
    """Arrays of zeros: the states before the first step.

    Args:
        specs: list of named `tf.TensorSpec`, `States.inputs`.
        num_rows: N.
        max_length: the maximum number of steps.

    Returns:
        `{name: array}`.
    """
    return {
        spec.name: np.zeros(
            [num_rows, *(max_length if size is None else size for size in spec.shape[1:])],
            spec.dtype.as_numpy_dtype,
        )
        for spec in specs
    }


def random_sentences(rng, vocabulary_size, lengths):
    """Random ids of sentences, `[B, S]` int32, padded at the end with 0.

    Args:
        rng: a NumPy generator.
        vocabulary_size: V; ids are from 1 to V - 1.
        lengths: list of B lengths.
    """
    ids = rng.integers(1, vocabulary_size, [len(lengths), max(lengths)], dtype=np.int32)
    return np.where(np.arange(max(lengths)) < np.array(lengths)[:, None], ids, 0).astype(np.int32)
