"""What the gate of a mixture reads for each token.

Axes: T tokens, D model, B sequences, S steps.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.gating.routing import Groups, Routing, groups_of
from tfmoe.layers.positions import flat_mask, real_tokens, row_mask
from tfmoe.ops import arguments


class GateInputs(NamedTuple):
    """The tokens of a mixture as its gate reads them.

    Attributes:
        rows: `[T, D]`, the features that the gate reads.
        token_ids: `[T]` int32 for a gate with `needs_token_ids`; else `None`.
        sequences: the `Groups` of the tokens by sequence; `None` if all are one sequence.
        mask: `[T]` bool, the rows that are tokens; `None` if all are.
    """

    rows: tf.Tensor
    token_ids: tf.Tensor | None = None
    sequences: Groups | None = None
    mask: tf.Tensor | None = None

    def route(self, gate, training: bool = False) -> Routing:
        """Runs a gate on the tokens.

        Args:
            gate: a built `tfmoe.gating.Gate`; or the first level of a hierarchical gate.
            training: whether the step trains.
        """
        options = {"sequences": self.sequences} if gate.needs_sequences else {}
        if self.mask is not None:
            options["groups"] = Groups(mask=self.mask)
        inputs = self.token_ids if gate.needs_token_ids else self.rows
        return gate(inputs, training=training, **options)

    def num_tokens(self) -> tf.Tensor:
        """T without masked rows, int32 scalar."""
        if self.mask is None:
            return tf.shape(self.rows)[0]
        return tf.math.count_nonzero(self.mask, dtype=tf.int32)

    def route_groups(self, gate, dispatcher, tokens, rows, training: bool = False) -> Routing:
        """Runs the gates of all groups, the inner level of a hierarchical gate.

        Args:
            gate: the built inner gate.
            dispatcher: the exchange that sent the tokens to the devices of their groups.
            tokens: `[T, D]`, the tokens before they were sent.
            rows: `[A, D]`, the tokens that it sent.
            training: whether the step trains.
        """
        if self.rows is not tokens:
            rows = dispatcher.dispatch_kept(self.rows)
        return gate(rows, training=training, groups=groups_of(dispatcher))


def gate_inputs_of(layer, inputs, tokens, mask=None, gate_inputs=None) -> GateInputs:
    """Collects what the gate of a mixture reads.

    Args:
        layer: the mixture, which has a `gate`.
        inputs: `[..., D]`, the inputs of the mixture.
        tokens: `[T, D]`, the inputs that are not masked.
        mask: as for a call of the mixture.
        gate_inputs: `None`; `[..., Dg]`, with the leading axes of `inputs`; or `[...]` integers,
            the token ids.

    Raises:
        ValueError: the gate needs token ids and `gate_inputs` has none, or `gate_inputs` has other
            leading axes than `inputs`.
    """
    gate = layer.gate
    sequences = sequences_of(inputs, mask) if gate.needs_sequences else None
    is_token = row_mask(inputs, mask)
    if gate.needs_token_ids:
        ids = token_ids(layer, inputs, gate_inputs)
        ids = real_tokens(ids[..., None], mask)[0][:, 0]
        return GateInputs(tokens, ids, sequences, is_token)
    if gate_inputs is None:
        return GateInputs(tokens, None, sequences, is_token)
    name = f"gate_inputs of {layer.name}"
    gate_inputs = arguments.float_tensor(name, gate_inputs, layer.compute_dtype)
    check_leading_axes(name, gate_inputs.shape[:-1], inputs)
    return GateInputs(real_tokens(gate_inputs, mask)[0], None, sequences, is_token)


def token_ids(layer, inputs, gate_inputs):
    """The checked `gate_inputs` of a gate that needs token ids, int32."""
    name = f"gate_inputs of {layer.name}"
    if gate_inputs is None:
        raise ValueError(
            f"{name} are missing: its gate, {type(layer.gate).__name__}, needs the token ids: "
            "layer(inputs, gate_inputs=token_ids)"
        )
    gate_inputs = tf.convert_to_tensor(gate_inputs)
    if not gate_inputs.dtype.is_integer:
        raise ValueError(f"{name} must be integers, the token ids, got {gate_inputs.dtype.name}")
    check_leading_axes(name, gate_inputs.shape, inputs)
    return tf.cast(gate_inputs, tf.int32)


def check_leading_axes(name, axes, inputs):
    """Raises a `ValueError` if the axes are not the leading axes of the inputs."""
    if not axes.is_compatible_with(inputs.shape[:-1]):
        raise ValueError(
            f"{name} must have the leading axes of the inputs, {tuple(inputs.shape[:-1])}, got "
            f"{tuple(axes)}"
        )


def sequences_of(inputs, mask=None) -> Groups | None:
    """The tokens of each sequence.

    Args:
        inputs: `[..., S, D]`; or `[T, D]`, which is one sequence.
        mask: as for a call of a mixture.

    Returns:
        The `Groups` of the tokens, or `None` for one sequence.
    """
    is_token = row_mask(inputs, mask)
    if inputs.shape.rank == 2:
        if is_token is None:
            return None
        size = tf.math.count_nonzero(is_token, keepdims=True, dtype=tf.int32)
        return Groups(size, tf.size(is_token), is_token)
    shape = tf.shape(inputs)
    num_steps = shape[-2]
    if mask is None:
        num_sequences = tf.reduce_prod(shape[:-2])
        return Groups(tf.fill([num_sequences], num_steps), num_steps)
    is_real = tf.reshape(flat_mask(mask, inputs), [-1, num_steps])
    sizes = tf.math.count_nonzero(is_real, axis=1, dtype=tf.int32)
    return Groups(sizes) if is_token is None else Groups(sizes, num_steps, is_token)
