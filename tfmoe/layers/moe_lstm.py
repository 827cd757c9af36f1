"""An LSTM whose weight matrix is a mixture of experts (suggested in section 3.1 of the paper).

Axes: B batch, S steps, T tokens (positions that are not masked), E experts, D input width, U units.
"""

from typing import Literal

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.distribute.static_shapes import portable_only, static_shapes
from tfmoe.distribute.tensorflow_internals import compiles_for_xla
from tfmoe.layers.expert_matrices import ExpertMatrices
from tfmoe.layers.expert_metrics import Mode, expert_metrics_or_none, mode_of
from tfmoe.layers.gate_inputs import GateInputs, gate_inputs_of
from tfmoe.layers.global_sums import apply_sums
from tfmoe.layers.lstm import forget_gate_ones, update_memory
from tfmoe.layers.mixing import mix
from tfmoe.layers.mixing_in_steps import check_gate, mix_step, plan_steps, steps_with_draws
from tfmoe.layers.mixture_layer import automatic_name, check_not_compiled
from tfmoe.layers.moe_lstm_costs import MoELSTMCosts
from tfmoe.layers.positions import at_positions, flat_mask, real_tokens
from tfmoe.layers.recording import record
from tfmoe.layers.recurrence import run_steps
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Constraint, Initializer, Regularizer

MIXTURES = ("both", "input")
SOURCES = ("state", "input")


@keras.saving.register_keras_serializable("tfmoe")
class MoELSTM(MoELSTMCosts):
    """LSTM whose matrix is a mixture: `z_t = Σ_i G(v_t)_i W_i v_t + b` with `v_t = [x_t, h_{t-1}]`,
    where only the experts with `G(v_t)_i > 0` are computed. The cell is that of `ProjectedLSTM`:
    `c_t = σ(f)·c_{t-1} + σ(i)·tanh(g)`, `h_t = σ(o)·tanh(c_t)` with `z_t = [i, f, g, o]`.

    Section 3.1 of the paper suggests this layer and reports no experiment. An expert is a matrix
    `[D + U, 4·U]` without a bias; b is shared. With one expert the layer is an LSTM.

    A gate that sees the state must wait for it: the batch of a step is B, not B·S, so an expert
    gets `k·B/E` rows at a time. Use large batches, and `recompute` if they need too much memory.

    Balancing losses, metrics and updates of the gate are computed once per call, from the tokens of
    all steps.

    Under a `MixedStrategy` replicas cannot communicate within the loop over the steps. So each
    replica gathers the matrices of all experts before the loop, and the gradients of a matrix are
    added up on its replica after the loop: memory for all matrices is needed during a step. With
    `mixture_of="input"` and `gate_from="input"` rows are exchanged instead, as in `MoE`.

    Args:
        num_experts: E, the total number of experts.
        units: U, width of the memory cell and of the output.
        gate: a `tfmoe.gating.Gate`, its name (`"noisy_top_k"`), or a dictionary of its name and
            arguments. The number of experts per token is k of the gate.
        mixture_of: `"both"` for experts `[D + U, 4·U]`; `"input"` for experts `[D, 4·U]`, which
            compute the inputs only, and an ordinary recurrent matrix `[U, 4·U]`.
        gate_from: `"state"` for a gate that sees v_t; `"input"` for a gate that sees x_t only, so
            that all steps are routed at once before the loop. With `mixture_of="input"` and
            `gate_from="input"` the experts too compute all steps at once.
        recompute: whether the backward pass keeps the state of every ⌈√S⌉-th step only, and
            computes the steps in between again. For 64 sequences of 400 steps, D = U = 128, E = 4
            and K = 2, the peak of a step's memory fell from 320 MB to 76 MB on a CPU.
        metrics: `"summary"`, `"all"` or `None`, as for `MoE`.
        kernel_initializer: initializer of each expert's matrix, as for a dense layer.
        kernel_regularizer: regularizer of each expert's matrix, as for a dense layer. The terms of
            all experts are added up.
        kernel_constraint: constraint of each expert's matrix, as for a dense layer.
        name: the layer's name, the prefix of the metrics; `None` for `moe_lstm`, `moe_lstm_1`, …

    Call arguments:
        inputs: `[B, S, D]` of any numeric type.
        mask: `[B, S]` bool, `False` for padding: a padded step is not routed, leaves the state
            unchanged, and its output is that of the step before.
        training: whether the gate draws noise and adds its balancing losses (`add_loss`).
        gate_inputs: as for `MoE`, with `gate_from="input"` only: what the gate sees instead of x_t.

    Returns:
        `[B, S, U]` in the layer's compute dtype.

    Raises:
        ValueError: an argument is out of range, or options cannot be combined.

    Example:
        >>> gate = NoisyTopK(k=2, importance_weight=0.1, load_weight=0.1)
        >>> layer = MoELSTM(num_experts=8, units=16, gate=gate)
        >>> layer(np.ones((4, 5, 16))).shape
        TensorShape([4, 5, 16])
    """

    def __init__(
        self,
        num_experts: int,
        units: int,
        gate: gating.Gate | str | dict = "noisy_top_k",
        mixture_of: Literal["both", "input"] = "both",
        gate_from: Literal["state", "input"] = "state",
        recompute: bool = False,
        metrics: Mode = "summary",
        kernel_initializer: Initializer = "glorot_uniform",
        kernel_regularizer: Regularizer = None,
        kernel_constraint: Constraint = None,
        name: str | None = None,
        **kwargs,
    ):
        super().__init__(name=name or automatic_name("moe_lstm"), **kwargs)
        self.supports_masking = True
        self.num_experts = arguments.positive("num_experts", num_experts)
        self.units = arguments.positive("units", units)
        self.mixture_of = arguments.one_of("mixture_of", mixture_of, MIXTURES)
        self.gate_from = arguments.one_of("gate_from", gate_from, SOURCES)
        self.recompute = arguments.boolean("recompute", recompute)
        # The dtype of the variables: under mixed precision the gate computes in float32.
        self.gate = gating.get(gate).for_experts(
            self.num_experts, name="gate", dtype=self.variable_dtype
        )
        check_gate(self.gate, mixture_of, gate_from, recompute)
        self.experts = ExpertMatrices(
            num_experts,
            4 * self.units,
            kernel_initializer=kernel_initializer,
            kernel_regularizer=kernel_regularizer,
            kernel_constraint=kernel_constraint,
            together=self.num_experts // (self.gate.groups or self.num_experts),
            name="experts",
            dtype=self.dtype_policy,
        )
        self.expert_metrics = expert_metrics_or_none(self, self.gate, metrics)

    @property
    def needs_token_ids(self) -> bool:  # type: ignore[override]
        return self.gate.needs_token_ids

    def build(self, inputs_shape, gate_inputs_shape=None):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", inputs_shape, rank=3)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: input_dim})
        gate_dim = self.gate_width(input_dim)
        if gate_inputs_shape is not None and not self.needs_token_ids:
            name = f"gate_inputs of {self.name}"
            gate_dim = arguments.last_dimension(name, gate_inputs_shape)
        self.gate.build((None, gate_dim))
        self.experts.build((None, self.expert_width(input_dim)))
        if self.mixture_of == "input":
            self.recurrent_kernel = self.add_weight(
                name="recurrent_kernel",
                shape=(self.units, 4 * self.units),
                initializer="orthogonal",
            )
        self.bias = self.add_weight(
            name="bias", shape=(4 * self.units,), initializer=forget_gate_ones(self.units)
        )

    def call(self, inputs, mask=None, training=False, gate_inputs=None):
        check_not_compiled(self)
        recompute = self.recompute and (training or not static_shapes())
        if recompute and compiles_for_xla():
            raise ValueError(
                f"recompute of {self.name} must be False with jit_compile=True, got True: XLA "
                "compiles loops over equal numbers of steps only, and the last segment is shorter; "
                "or remove jit_compile=True"
            )
        inputs = self.dense_inputs(inputs)
        tokens, positions = real_tokens(inputs, mask)
        if self.gate_from == "state":
            if gate_inputs is not None:
                raise ValueError(
                    f"gate_inputs of {self.name} need gate_from='input', got gate_from='state'"
                )
            sequences, sums = steps_with_draws(self.gate, inputs, self.units, training), None
        else:
            gate_inputs = gate_inputs_of(self, inputs, tokens, mask, gate_inputs)
            sequences, sums = self._route_at_once(
                inputs, tokens, positions, mask, gate_inputs, training
            )
        if mask is not None:
            mask = tf.reshape(flat_mask(mask, inputs), tf.shape(inputs)[:2])
            sequences["mask"] = tf.transpose(mask)
        weights = self._weights()

        def step(inputs, state, weights):
            state, sums = self._step(inputs, state, weights, training)
            return state, {} if portable_only() else sums  # other runtimes have no metrics

        zeros = {} if sums is not None else self._zero_sums(step, sequences, weights)
        state = self.initial_state(tf.shape(inputs)[0])
        (outputs,), _, step_sums = run_steps(step, sequences, state, weights, zeros, recompute)
        sums = step_sums if sums is None else sums
        outputs = tf.transpose(outputs, [1, 0, 2])
        outputs = tf.ensure_shape(outputs, [*inputs.shape[:2], self.units])
        if self.gate_from == "state":
            gate_inputs = self._state_inputs(inputs, outputs, mask)
        record(self, gate_inputs, positions, inputs, training)
        apply_sums(self, self.gate, sums, training, self.expert_metrics)
        return outputs

    def _route_at_once(self, inputs, tokens, positions, mask, gate_inputs, training):
        """Runs the gate before the loop, and the experts if they do not see the state.

        Args:
            inputs: `[B, S, D]`.
            tokens: as returned by `real_tokens`.
            positions: as returned by `real_tokens`.
            mask: as for a call.
            gate_inputs: `GateInputs`.
            training: as for a call.

        Returns:
            The dictionary of tensors `[S, ...]` that `_step` gets; and the sums of the gate.
        """
        if self.runs_at_once:
            z, sums = mix(self.gate, self.experts, tokens, training, gate_inputs=gate_inputs)
            return {"z": tf.transpose(at_positions(z, positions, inputs, mask), [1, 0, 2])}, sums
        num_steps = tf.shape(inputs)[1]
        plan, sums = plan_steps(self.gate, gate_inputs, positions, num_steps, training)
        return {"x": tf.transpose(inputs, [1, 0, 2]), "assignments": plan}, sums

    def _weights(self):
        """The weights that a step needs, as tensors."""
        weights = {"bias": self.bias}
        if self.mixture_of == "input":
            weights["recurrent"] = self.recurrent_kernel
        weights = {
            name: tf.cast(tf.convert_to_tensor(weight), self.compute_dtype)
            for name, weight in weights.items()
        }
        if not self.runs_at_once:
            weights["experts"] = self.experts.gathered()
            if self.recompute and self.gate_from == "state":
                # Also those without a gradient: an update comes before the backward pass.
                weights["gate"] = [tf.convert_to_tensor(v) for v in self.gate.weights]
        return weights

    def _zero_sums(self, step, sequences, weights):
        """Zeros like the sums that the gate returns in a step."""
        num_rows = int(static_shapes())  # these operations need a row
        inputs = tf.nest.map_structure(
            lambda x: tf.zeros([num_rows, *x.shape[2:]], x.dtype), sequences
        )
        _, sums = step(inputs, self.initial_state(num_rows), weights)
        return tf.nest.map_structure(tf.zeros_like, sums)

    def _step(self, inputs, state, weights, training=False):
        """Computes one step.

        Args:
            inputs: dictionary of the tensors for this step, and the mask.
            state: `[h, c]`.
            weights: see `_weights`.
            training: whether the step trains.

        Returns:
            The new state; the sums of the gate, or `{}` if it ran before the loop.
        """
        (h, c), sums, mask = state, {}, inputs.get("mask")
        if "z" in inputs:
            z = inputs["z"]
        else:
            v, experts = tf.concat([inputs["x"], h], axis=1), weights["experts"]
            if "assignments" in inputs:
                z = experts(v, inputs["assignments"].of_rows(tf.shape(v)[0], self.num_experts))
            else:
                draws, gate_weights = inputs.get("draws"), weights.get("gate")
                z, sums = mix_step(self.gate, gate_weights, experts, v, mask, draws, training)
        z += weights["bias"]
        if "recurrent" in weights:
            z += tf.matmul(h, weights["recurrent"])
        new_state = list(update_memory(z, c))
        if mask is not None:
            new_state = [
                tf.where(tf.expand_dims(mask, 1), new, old)
                for new, old in zip(new_state, state, strict=True)
            ]
        return new_state, sums

    def initial_state(self, batch_size):
        """Returns the zero state `[h, c]`, `[B, U]` each."""
        return [tf.zeros([batch_size, self.units], self.compute_dtype) for _ in range(2)]

    def step(self, inputs, state, gate_inputs=None):
        x = self.dense_inputs(inputs)
        step_inputs = {"x": x}
        if self.gate_from == "input":
            gate_inputs = gate_inputs_of(self, x, x, None, gate_inputs)
            sequences, _ = self._route_at_once(
                tf.expand_dims(x, 1), x, None, None, gate_inputs, False
            )
            step_inputs = tf.nest.map_structure(lambda tensor: tensor[0], sequences)
        state, _ = self._step(step_inputs, state, self._weights())
        return state[0], state

    def _state_inputs(self, inputs, outputs, mask):
        """The `GateInputs` of a gate that sees the state, at all positions that are not masked."""
        previous = tf.pad(outputs, [[0, 0], [1, 0], [0, 0]])[:, :-1]
        return GateInputs(real_tokens(tf.concat([inputs, previous], axis=2), mask)[0])

    def compute_output_shape(self, inputs_shape, gate_inputs_shape=None):
        return (*inputs_shape[:-1], self.units)

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "units": self.units,
            "gate": keras.saving.serialize_keras_object(self.gate),
            "mixture_of": self.mixture_of,
            "gate_from": self.gate_from,
            "recompute": self.recompute,
            "metrics": mode_of(self.expert_metrics),
            **self.experts.own_config(),
        }
