"""The mixture of a recurrence: in a step, or planned for all steps.

Random numbers are drawn before the loop over the steps, and weights are tensors, so that a step
that is computed again gives the same result and all gradients.

Axes: B batch, S steps, T tokens (rows or positions that are not masked), D width of a gate's
inputs.
"""

import contextlib

import keras
import tensorflow as tf

from tfmoe.distribute import collectives
from tfmoe.layers.mixing import limit_assignments, mix, with_received
from tfmoe.layers.positions import at_positions, real_tokens
from tfmoe.ops.step_assignments import split_by_step


def check_gate(gate, mixture_of, gate_from, recompute):
    """Raises a `ValueError` if a gate cannot be combined with the options of `MoELSTM`."""
    if gate_from == "state" and (gate.needs_token_ids or gate.needs_sequences):
        raise ValueError(
            f"gate_from must be 'input' for {type(gate).__name__}, which needs the token ids or "
            "the sequences, got 'state'"
        )
    if gate.groups is None:
        return
    if gate_from == "input" and mixture_of == "both":
        raise ValueError(
            "gate must not be hierarchical with gate_from='input' and mixture_of='both': use "
            "mixture_of='input', gate_from='state', or a flat gate such as NoisyTopK(k=2)"
        )
    if recompute and gate_from == "state":
        raise ValueError(
            "recompute must be False with a hierarchical gate inside the loop, whose noise cannot "
            "be drawn again: use a flat gate such as NoisyTopK(k=2)"
        )


def mix_step(gate, weights, experts, rows, mask=None, draws=None, training=False):
    """Runs the rows of a step through a mixture.

    Args:
        gate: a built gate.
        weights: the values of the gate's trainable variables, as for `fixed_weights`.
        experts: the `MatrixStack` of all experts.
        rows: `[B, D]`.
        mask: `[B]` bool, `False` for rows that are not routed and give 0; or `None`.
        draws: the random numbers of the gate, `[B, ...]`; or `None`.
        training: whether the step trains.

    Returns:
        `[B, N]`; and the sums of the gate.

    Raises:
        ValueError: the gate is hierarchical, and the experts are sharded over replicas.
    """
    if gate.groups is not None and collectives.shards_experts():
        raise ValueError(
            "replicas cannot communicate in each step of a MoELSTM, as a hierarchical gate needs: "
            "use a flat gate such as NoisyTopK(k=2), or mixture_of='input' and gate_from='input'"
        )
    tokens, positions = real_tokens(rows, mask)
    if draws is not None and positions is not None:
        draws = tf.gather_nd(draws, positions)
    with fixed_draws(gate, draws), fixed_weights(gate, weights):
        outputs, sums = mix(gate, experts, tokens, training)
    return at_positions(outputs, positions, rows), sums


def plan_steps(gate, gate_inputs, positions, num_steps, training=False):
    """Routes the tokens of all steps with a flat gate.

    Args:
        gate: a built gate.
        gate_inputs: `tfmoe.layers.gate_inputs.GateInputs` of the tokens.
        positions: `[T, 1]`, the index of each token among the B·S positions; or `None` if T = B·S.
        num_steps: S, int32 scalar.
        training: whether the step trains.

    Returns:
        `StepAssignments` of the B sequences in S steps; and the sums of the gate.
    """
    routing = gate_inputs.route(gate, training)
    assignments = limit_assignments(routing.assignments, gate, training)
    sums = with_received(routing.sums, assignments, routing.assignments, tf.identity)
    if positions is None:
        positions = tf.range(assignments.num_tokens)
    positions = tf.cast(tf.reshape(positions, [-1]), tf.int32)
    rows, steps = positions // num_steps, positions % num_steps
    return split_by_step(assignments, rows, steps, num_steps), sums


def steps_with_draws(gate, inputs, units, training=False):
    """The tensors of all steps for a gate that runs in the loop.

    Args:
        gate: a built gate, whose inputs are `[x_t, h_{t-1}]`.
        inputs: `[B, S, D]`.
        units: the width of h.
        training: whether the step trains.

    Returns:
        `{"x": [S, B, D]}`; in training also `draws`, the random numbers of the gate, if it draws
        any.
    """
    x = tf.transpose(inputs, [1, 0, 2])
    draws = draw_all(gate, tf.pad(x, [[0, 0], [0, 0], [0, units]])) if training else None
    return {"x": x} if draws is None else {"x": x, "draws": draws}


def draw_all(gate, rows):
    """Draws the random numbers of a flat gate for all steps.

    Args:
        gate: a built gate.
        rows: `[S, B, D]`, of the width of the gate's inputs.

    Returns:
        `[S, B, ...]`, or `None` if the gate draws no random numbers in training.
    """
    draw, calls = getattr(gate, "draw", None), []
    if draw is None:
        return None

    def recorded_draw(inputs):
        calls.append(inputs)
        return draw(inputs)

    flat = tf.cast(tf.reshape(rows, [-1, rows.shape[-1]]), gate.compute_dtype)
    with replaced_draw(gate, recorded_draw):
        gate(flat[:0], training=True)
    if not calls:
        return None
    draws = draw(flat)
    shape = tf.concat([tf.shape(rows)[:2], tf.shape(draws)[1:]], axis=0)
    return tf.ensure_shape(tf.reshape(draws, shape), [*rows.shape[:2], *draws.shape[1:]])


def fixed_draws(gate, draws):
    """A context in which a gate uses given random numbers.

    Args:
        gate: a gate.
        draws: `[T, ...]`, or `None` for those of the gate.
    """
    if draws is None:
        return contextlib.nullcontext()
    return replaced_draw(gate, lambda inputs: draws)


@contextlib.contextmanager
def replaced_draw(gate, draw):
    """A context in which a gate draws random numbers with another function."""
    own = vars(gate).get("draw")  # usually absent: `draw` is a method of the class
    gate.draw = draw
    try:
        yield
    finally:
        if own is None:
            del gate.draw
        else:
            gate.draw = own


def fixed_weights(gate, weights):
    """A context in which the trainable variables of a gate have given values.

    Args:
        gate: a gate.
        weights: list of tensors, in the order of the variables; `None` for the variables' values.
    """
    if weights is None:
        return contextlib.nullcontext()
    return keras.StatelessScope(zip(gate.trainable_variables, weights, strict=True))
