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
from tfmoe.layers.gate_inputs import GateInputs
from tfmoe.layers.mixing import limit_assignments, mix, with_received
from tfmoe.layers.positions import at_positions, real_tokens, row_mask
from tfmoe.ops.sorting import kept_first
from tfmoe.ops.step_assignments import split_by_step, split_static

DRAWS = ("draw", "draw_jitter")  # the methods of gates that draw random numbers


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
        weights: the values of the gate's weights, as for `fixed_weights`.
        experts: the `MatrixStack` of all experts.
        rows: `[B, D]`.
        mask: `[B]` bool, `False` for rows that are not routed and give 0; or `None`.
        draws: `{method: [B, ...]}`, the random numbers of the gate; or `None` for its own.
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
    gate_inputs, draws = GateInputs(tokens, mask=row_mask(rows, mask)), draws or {}
    if positions is not None:
        draws = {name: tf.gather_nd(values, positions) for name, values in draws.items()}
    elif gate_inputs.mask is not None:  # the i-th row of the step has the i-th draw
        order = kept_first(gate_inputs.mask, is_static=True)
        draws = {name: tf.gather(values, order) for name, values in draws.items()}
    fixed = {name: lambda _, values=values: values for name, values in draws.items()}
    with replaced_draws(gate, fixed), fixed_weights(gate, weights):
        outputs, sums = mix(gate, experts, tokens, training, gate_inputs=gate_inputs)
    return at_positions(outputs, positions, rows, mask), sums


def plan_steps(gate, gate_inputs, positions, num_steps, training=False):
    """Routes the tokens of all steps with a flat gate.

    Args:
        gate: a built gate.
        gate_inputs: `tfmoe.layers.gate_inputs.GateInputs` of the tokens.
        positions: `[T, 1]`, the index of each token among the B·S positions; or `None` if T = B·S.
        num_steps: S, int32 scalar.
        training: whether the step trains.

    Returns:
        `StepAssignments` or `StaticSteps` of the B sequences in S steps; and the sums of the gate.
    """
    routing = gate_inputs.route(gate, training)
    num_tokens = gate_inputs.num_tokens()
    assignments = limit_assignments(routing.assignments, gate, training, num_tokens=num_tokens)
    sums = with_received(routing.sums, assignments, routing.assignments, tf.identity)
    if assignments.is_static:
        return split_static(assignments, num_steps), sums
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
        `{"x": [S, B, D]}`; in training also `draws`, the random numbers of the gate.
    """
    x = tf.transpose(inputs, [1, 0, 2])
    if not training:
        return {"x": x}
    return {"x": x, "draws": draw_all(gate, tf.pad(x, [[0, 0], [0, 0], [0, units]]))}


def draw_all(gate, rows):
    """Draws the random numbers of a flat gate for all steps.

    Args:
        gate: a built gate.
        rows: `[S, B, D]`, of the width of the gate's inputs.

    Returns:
        `{method: [S, B, ...]}`, for the methods of `DRAWS` that the gate calls in training.
    """
    methods = {name: getattr(gate, name) for name in DRAWS if hasattr(gate, name)}
    if not methods:
        return {}
    called = set()

    def recorded(name):
        def draw(inputs):
            called.add(name)
            return methods[name](inputs)

        return draw

    def by_step(draws):
        shape = tf.concat([tf.shape(rows)[:2], tf.shape(draws)[1:]], axis=0)
        return tf.ensure_shape(tf.reshape(draws, shape), [*rows.shape[:2], *draws.shape[1:]])

    flat = tf.cast(tf.reshape(rows, [-1, rows.shape[-1]]), gate.compute_dtype)
    with replaced_draws(gate, {name: recorded(name) for name in methods}):
        gate(flat[:0], training=True)
    return {name: by_step(draw(flat)) for name, draw in methods.items() if name in called}


@contextlib.contextmanager
def replaced_draws(gate, draws):
    """A context in which a gate draws random numbers with other functions.

    Args:
        gate: a gate.
        draws: `{method: function}`.
    """
    own = {name: vars(gate)[name] for name in draws if name in vars(gate)}  # usually of the class
    for name, draw in draws.items():
        setattr(gate, name, draw)
    try:
        yield
    finally:
        for name in draws:
            delattr(gate, name)
        for name, draw in own.items():
            setattr(gate, name, draw)


def fixed_weights(gate, weights):
    """A context in which the weights of a gate have given values.

    Args:
        gate: a gate.
        weights: list of tensors, in the order of `gate.weights`; `None` for the variables' values.
    """
    if weights is None:
        return contextlib.nullcontext()
    return keras.StatelessScope(zip(gate.weights, weights, strict=True))
