"""An LSTM whose matrices are mixtures of experts (suggested in section 3.1 of the paper).

Axes: B batch, S steps, T tokens (positions that are not masked), E experts, D input width, U units.
"""

import math
from typing import Literal

import keras
import tensorflow as tf

from tfmoe import gating
from tfmoe.layers.block import Kept
from tfmoe.layers.expert_matrices import ExpertMatrices
from tfmoe.layers.expert_metrics import ExpertMetrics
from tfmoe.layers.global_sums import apply_sums
from tfmoe.layers.lstm import forget_gate_ones, update_memory
from tfmoe.layers.mixing import mix
from tfmoe.layers.mixing_in_steps import draw_all, mix_step, plan_steps
from tfmoe.layers.mixture_layer import MixtureLayer, automatic_name
from tfmoe.layers.positions import at_positions, real_tokens
from tfmoe.layers.recording import record
from tfmoe.layers.recurrence import run_steps
from tfmoe.ops import arguments
from tfmoe.ops.arguments import Initializer
from tfmoe.ops.tracking import track

MIXTURES = ("both", "input")
SOURCES = ("state", "input")


@keras.saving.register_keras_serializable("tfmoe")
class MoELSTM(MixtureLayer):
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
            computes the steps in between again.
        metrics: whether `fit` and `evaluate` report the metrics of `MoE`.
        kernel_initializer: initializer of each expert's matrix, as for a dense layer.
        name: the layer's name, the prefix of the metrics; `None` for `moe_lstm`, `moe_lstm_1`, …

    Call arguments:
        inputs: `[B, S, D]` of any numeric type.
        mask: `[B, S]` bool, `False` for padding: a padded step is not routed, leaves the state
            unchanged, and its output is that of the step before.
        training: whether the gate draws noise and adds its balancing losses (`add_loss`).

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
        metrics: bool = True,
        kernel_initializer: Initializer = "glorot_uniform",
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
        self._check_gate()
        self.experts = ExpertMatrices(
            num_experts,
            4 * self.units,
            kernel_initializer=kernel_initializer,
            together=self.num_experts // (self.gate.groups or self.num_experts),
            name="experts",
            dtype=self.dtype_policy,
        )
        metrics = arguments.boolean("metrics", metrics)
        self.expert_metrics = ExpertMetrics(self, self.gate.METRICS) if metrics else None
        track(self, metrics=self.expert_metrics)

    @property
    def _at_once(self):
        """Whether the experts compute all steps before the loop."""
        return self.mixture_of == self.gate_from == "input"

    def _check_gate(self):
        """Raises a `ValueError` if the gate cannot be combined with the other options."""
        if self.gate.groups is None:
            return
        if self.gate_from == "input" and self.mixture_of == "both":
            raise ValueError(
                "gate must not be hierarchical with gate_from='input' and mixture_of='both': use "
                "mixture_of='input', gate_from='state', or a flat gate such as NoisyTopK(k=2)"
            )
        if self.recompute and not self._at_once:
            raise ValueError(
                "recompute must be False with a hierarchical gate inside the loop, whose noise "
                "cannot be drawn again: use a flat gate such as NoisyTopK(k=2)"
            )

    def build(self, input_shape):
        input_dim = arguments.last_dimension(f"inputs of {self.name}", input_shape, rank=3)
        self.input_spec = keras.layers.InputSpec(ndim=3, axes={-1: input_dim})
        with_state = input_dim + self.units
        self.gate.build((None, with_state if self.gate_from == "state" else input_dim))
        self.experts.build((None, with_state if self.mixture_of == "both" else input_dim))
        if self.mixture_of == "input":
            self.recurrent_kernel = self.add_weight(
                name="recurrent_kernel",
                shape=(self.units, 4 * self.units),
                initializer="orthogonal",
            )
        self.bias = self.add_weight(
            name="bias", shape=(4 * self.units,), initializer=forget_gate_ones(self.units)
        )

    def call(self, inputs, mask=None, training=False):
        self.check_not_compiled()
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        sequences, sums = self._before_the_loop(inputs, mask, training)
        if mask is not None:
            sequences["mask"] = tf.transpose(tf.cast(mask, tf.bool))
        state, weights = self.initial_state(tf.shape(inputs)[0]), self._weights()

        def step(inputs, state, weights):
            return self._step(inputs, state, weights, training)

        zeros = {} if sums is not None else self._zero_sums(step, sequences, weights)
        outputs, step_sums = run_steps(step, sequences, state, weights, zeros, self.recompute)
        sums = step_sums if sums is None else sums
        outputs = tf.ensure_shape(tf.transpose(outputs, [1, 0, 2]), [*inputs.shape[:2], self.units])
        tokens, positions = real_tokens(self._gate_inputs(inputs, outputs), mask)
        record(self, tokens, positions, inputs, training)
        apply_sums(self, self.gate, sums, training, self.expert_metrics)
        return outputs

    def _before_the_loop(self, inputs, mask, training):
        """Computes what does not depend on the state.

        Args:
            inputs: `[B, S, D]`.
            mask: `[B, S]` bool, or `None`.
            training: as for a call.

        Returns:
            The dictionary of the tensors `[S, ...]` that `_step` gets; and the sums of the gate,
            or `None` if it runs in the loop.
        """
        x = tf.transpose(inputs, [1, 0, 2])
        if self.gate_from == "state":
            rows = tf.pad(x, [[0, 0], [0, 0], [0, self.units]])
            draws = draw_all(self.gate, rows) if training else None
            return {"x": x} | ({} if draws is None else {"draws": draws}), None
        if self._at_once:
            tokens, positions = real_tokens(inputs, mask)
            z, sums = mix(self.gate, self.experts, tokens, training)
            return {"z": tf.transpose(at_positions(z, positions, inputs), [1, 0, 2])}, sums
        assignments, sums = plan_steps(self.gate, inputs, mask, training)
        return {"x": x, "assignments": assignments}, sums

    def _weights(self):
        """The weights that a step needs, as tensors."""
        weights = {"bias": self.bias}
        if self.mixture_of == "input":
            weights["recurrent"] = self.recurrent_kernel
        weights = {
            name: tf.cast(tf.convert_to_tensor(weight), self.compute_dtype)
            for name, weight in weights.items()
        }
        if not self._at_once:
            weights["experts"] = self.experts.gathered()
            if self.recompute and self.gate_from == "state":
                weights["gate"] = [tf.convert_to_tensor(v) for v in self.gate.trainable_variables]
        return weights

    def _zero_sums(self, step, sequences, weights):
        """Zeros like the sums that the gate returns in a step."""
        inputs = {name: tf.zeros([0, *x.shape[2:]], x.dtype) for name, x in sequences.items()}
        _, sums = step(inputs, self.initial_state(0), weights)
        return tf.nest.map_structure(tf.zeros_like, sums)

    def _step(self, inputs, state, weights, training=False):
        """Computes one step.

        Args:
            inputs: dictionary of the tensors of `_before_the_loop` for this step, and the mask.
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
                z = experts(v, inputs["assignments"].of_rows(tf.shape(v)[0]))
            else:
                draws, gate_weights = inputs.get("draws"), weights.get("gate")
                z, sums = mix_step(self.gate, gate_weights, experts, v, mask, draws, training)
        z += weights["bias"]
        if "recurrent" in weights:
            z += tf.matmul(h, weights["recurrent"])
        new_state = list(update_memory(z, c))
        if mask is not None:
            new_state = [
                tf.where(mask[:, None], new, old) for new, old in zip(new_state, state, strict=True)
            ]
        return new_state, sums

    def initial_state(self, batch_size):
        """Returns the zero state `[h, c]`, `[B, U]` each."""
        return [tf.zeros([batch_size, self.units], self.compute_dtype) for _ in range(2)]

    def step(self, inputs, state):
        x = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        inputs, weights = {"x": x}, self._weights()
        if self._at_once:
            inputs = {"z": mix(self.gate, self.experts, x)[0]}
        elif self.gate_from == "input":
            plan, _ = plan_steps(self.gate, x[:, None])
            inputs["assignments"] = tf.nest.map_structure(lambda part: part[0], plan)
        state, _ = self._step(inputs, state, weights)
        return state[0], state

    def _gate_inputs(self, inputs, outputs):
        """The inputs of the gate at all positions, from the inputs and outputs of the layer."""
        if self.gate_from == "input":
            return inputs
        previous = tf.pad(outputs, [[0, 0], [1, 0], [0, 0]])[:, :-1]
        return tf.concat([inputs, previous], axis=2)

    def route(self, inputs: tf.Tensor, mask: tf.Tensor | None = None) -> gating.Routing:
        """Routes tokens as in evaluation, before any capacity. A gate that sees the state needs the
        outputs of the layer, which are computed.

        Args:
            inputs: as for a call.
            mask: as for a call.

        Returns:
            `tfmoe.gating.Routing` of the T tokens that are not masked, in order.
        """
        inputs = arguments.float_tensor(f"inputs of {self.name}", inputs, self.compute_dtype)
        outputs = self(inputs, mask=mask) if self.gate_from == "state" else None
        return self.gate(real_tokens(self._gate_inputs(inputs, outputs), mask)[0])

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token: `K·(D + U)·4U` and the gate; with `mixture_of="input"`
        `(K·D + U)·4U` and the gate.
        """
        units, selected = self.units, self.gate.num_selected
        inputs = selected * input_dim
        inputs += units if self.mixture_of == "input" else selected * units
        return inputs * 4 * units + self.gate_ops_per_timestep(input_dim)

    def gate_ops_per_timestep(self, input_dim):
        return self.gate.ops_per_timestep(self._gate_width(input_dim))

    def _gate_width(self, input_dim):
        return input_dim + (self.units if self.gate_from == "state" else 0)

    def kept_for_backward(self, input_dim, steps=0):
        """Bytes kept per position. Always: the input; with recomputation the states at the ends of
        segments, `2·U` values for `⌈√S⌉` positions, if the number of steps S is known. Without
        recomputation also: by the gate; the rows sent to experts and their results; four gates, the
        cell, its tanh and the output, `7·U`.

        While the backward pass computes a segment again, it holds ⌈√S⌉ positions in full.

        Args:
            input_dim: D.
            steps: S, or 0.
        """
        size, units = tf.as_dtype(self.compute_dtype).size, self.units
        width = input_dim + (units if self.mixture_of == "both" else 0)
        selected = self.gate.num_selected
        mixture = self.gate.kept_for_backward(self._gate_width(input_dim))
        mixture += size * selected * (width + 4 * units)
        always = size * input_dim
        recomputable = size * 7 * units
        if self._at_once:
            always += mixture
        else:
            recomputable += mixture
        if self.recompute and steps:
            always += size * 2 * units // (math.isqrt(steps - 1) + 1)
        return Kept(always, recomputable, self.recompute)

    def get_config(self):
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "units": self.units,
            "gate": keras.saving.serialize_keras_object(self.gate),
            "mixture_of": self.mixture_of,
            "gate_from": self.gate_from,
            "recompute": self.recompute,
            "metrics": self.expert_metrics is not None,
            "kernel_initializer": keras.initializers.serialize(self.experts.kernel_initializer),
        }
