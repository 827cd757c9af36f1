"""The sparse version of KerasHub's layers with a router and experts.

Axes: B batch, S steps, T = B·S tokens, E experts, D model.
"""

from typing import Any

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import add_metric, remove_metric
from tfmoe.keras_hub.experts import BankExperts
from tfmoe.keras_hub.gates import RouterGate, RouterOutputs
from tfmoe.layers.expert_metrics import Mode, expert_metrics_or_none
from tfmoe.layers.global_sums import apply_sums
from tfmoe.layers.mixing import mix
from tfmoe.layers.mixture_layer import MixtureLayer, check_not_compiled
from tfmoe.layers.recording import record


class SparseMixture(MixtureLayer):
    """A mixin for the class of a KerasHub layer with experts. The layer keeps its attributes,
    variables and configuration, and computes only the experts that a token selects.

    A subclass implements `parts` and `call`.

    Attributes:
        replaces: name of the KerasHub class, with its module.
        builds_bank: name of the KerasHub class, with its module, whose `build` creates the experts'
            variables, all of them with experts as the first axis, and no others.
        builds_whole: name of the KerasHub class, with its module, after whose `build` the mixture
            is complete: router, bank, and the layer around if the mixture needs it; `None` for
            `replaces`.
        bank_class: a mixin for the class of the layer that `bank` returns; `None` if there is none.
        needs_parent: whether the router is in the layer around it.
        added: names of the attributes that `make_sparse` set.
    """

    replaces: str
    builds_bank: str
    builds_whole: str | None = None
    bank_class: type[BankExperts] | None = None
    needs_parent = False
    added: tuple[str, ...] = ()
    num_experts: int
    expert_metrics: Any

    def make_sparse(self, parent: keras.Layer | None, metrics: Mode) -> None:
        """Adds what the layer needs in addition to KerasHub's attributes, after the change of its
        class.

        Args:
            parent: the layer around it, or `None`.
            metrics: as for `tfmoe.layers.MoE`.
        """
        added = self.parts(parent)
        added["expert_metrics"] = expert_metrics_or_none(self, added["gate"], metrics)
        # Not as Keras' attributes: weights files must not contain them.
        self.__dict__.update(added, added=tuple(added))
        if self.expert_metrics is not None:
            add_metric(self, self.expert_metrics)

    def make_dense(self) -> None:
        """Removes what `make_sparse` added, before the class of KerasHub is restored."""
        if self.expert_metrics is not None:
            remove_metric(self, self.expert_metrics)
        for name in (*self.added, "added"):
            del self.__dict__[name]

    def parts(self, parent: keras.Layer | None) -> dict:
        """The attributes that a mixture has and KerasHub's layer does not: `gate`, `experts`.

        Args:
            parent: the layer around it, or `None`.
        """
        raise NotImplementedError

    def bank(self) -> keras.Layer | None:
        """The layer with the experts, whose class changes too; `None` if there is none."""
        return None

    def mixed(self, tokens, router_outputs, inputs, training):
        """Routes tokens, computes their experts, and adds the losses and metrics.

        Args:
            tokens: `[T, D]`.
            router_outputs: `RouterOutputs` of the tokens.
            inputs: `[..., D]`, the inputs of the layer.
            training: whether the step trains.

        Returns:
            `[T, D]`.
        """
        check_not_compiled(self)
        record(self, router_outputs, None, inputs, training)
        outputs, sums = mix(self.gate, self.experts, tokens, training, gate_inputs=router_outputs)
        apply_sums(self, self.gate, sums, training, self.expert_metrics)
        return outputs

    def rematerialized_call(self, layer_call, *args, **kwargs):
        raise ValueError(
            f"{self.name} does not support keras.RematScope: create the model outside of the scope"
        )

    def __dir__(self):
        # Keras saves what it finds here.
        return [name for name in super().__dir__() if name not in self.added]


class SparseBlock(SparseMixture):
    """A mixin for KerasHub's blocks that take hidden states and return router logits too.

    A subclass implements `make_gate`.
    """

    def call(self, hidden_states, attention_mask=None, training=False):
        tokens = self.prepared(tf.reshape(hidden_states, [-1, hidden_states.shape[-1]]), training)
        logits = self.router_logits(tokens)
        in_loss = self.tokens_in_loss(attention_mask) if training else None
        outputs = self.mixed(tokens, RouterOutputs(logits, in_loss), hidden_states, training)
        shared = self.shared_outputs(tokens)
        if shared is not None:
            outputs += shared
        return at_steps(outputs, hidden_states), logits

    def parts(self, parent):
        return {"gate": self.make_gate(), "experts": self.bank()}

    def make_gate(self) -> RouterGate:
        """Makes the gate for the layer's router."""
        raise NotImplementedError

    def bank(self):
        return self.expert_bank

    def prepared(self, tokens, training):
        """The tokens that router and experts read."""
        return tokens

    def router_logits(self, tokens) -> tf.Tensor:
        """`[T, E]`, the logits of KerasHub's router for `[T, D]` tokens."""
        return self._sparse_feedforward_gate_dense(tokens)

    def tokens_in_loss(self, attention_mask) -> tf.Tensor | None:
        """`[T]` float32, the tokens that KerasHub's balancing loss counts.

        Args:
            attention_mask: `None`; a padding mask `[B, S]`; or an attention mask `[B, S, S]`, for
                which a position counts if it attends to any position.
        """
        if attention_mask is None:
            return None
        mask = tf.cast(attention_mask, tf.bool)
        if mask.shape.rank == 3:
            mask = tf.reduce_any(mask, axis=-1)
        return tf.cast(tf.reshape(mask, [-1]), tf.float32)

    def shared_layers(self) -> list[keras.Layer]:
        """The dense layers of the expert that computes all tokens."""
        return []

    def shared_outputs(self, tokens) -> tf.Tensor | None:
        """`[T, D]`, the output of the expert that computes all tokens, or `None`."""
        return None

    def ops_per_timestep(self, input_dim):
        shared = sum(
            layer.kernel.shape[0] * layer.kernel.shape[1] for layer in self.shared_layers()
        )
        return super().ops_per_timestep(input_dim) + shared


def at_steps(outputs, inputs):
    """Reshapes `[T, D]` outputs to the shape of the inputs, `[..., D]`."""
    return tf.ensure_shape(tf.reshape(outputs, tf.shape(inputs)), inputs.shape)
