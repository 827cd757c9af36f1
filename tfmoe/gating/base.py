"""What every gate is: a layer that selects experts for tokens and asks that they be used evenly.

Axes: T tokens, E experts, K selected experts per token, D model, G groups.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from tfmoe.distribute.collectives import all_reduce_sums
from tfmoe.ops import balancing
from tfmoe.ops.arguments import non_negative, positive
from tfmoe.ops.dispatch import Pairs
from tfmoe.ops.expert_matmul import grouped_matmul


def small_random():
    """An initializer for gates without noise: with zeros, every token would go to the same experts.

    Paper: not in it, whose gate has noise. As in the Switch Transformer (Fedus et al. 2021).
    """
    return keras.initializers.VarianceScaling(0.1, mode="fan_in", distribution="truncated_normal")


class Selection(NamedTuple):
    """What a gate decides for each token on its own.

    Attributes:
        experts: `[T, K]` int32 expert ids, distinct within a row.
        gates: `[T, K]` float, their weights `G(x)_i`.
        load_probability: `[T, E]` float, P(x, i) of eq 9, or `None` where the load is the plain
            count.
    """

    experts: tf.Tensor
    gates: tf.Tensor
    load_probability: tf.Tensor | None = None


class PairSelection(NamedTuple):
    """What a gate decides that gives tokens differing numbers of experts.

    Attributes:
        pairs: `tfmoe.ops.dispatch.Pairs`.
        gates: float, the weight `G(x)_i` of each pair.
        loss: a scalar for `add_loss`, or `None`.
        measures: `{name: scalar}`, values for metrics of the gate, or `None`.
    """

    pairs: Pairs
    gates: tf.Tensor
    loss: tf.Tensor | None = None
    measures: dict | None = None


class Routing(NamedTuple):
    """What a gate decides for a batch of tokens: K experts for each token, or pairs of a token and
    an expert.

    Attributes:
        experts: `[T, K]` int32 expert ids, distinct within a row; `None` with `pairs`.
        gates: `[T, K]` float, their weights `G(x)_i`; the weights of the pairs with `pairs`.
        importance: `[E]` float, eq 6.
        load: `[E]` float, eq 10; the plain count where there is no smooth estimate.
        pairs: `None`, or `tfmoe.ops.dispatch.Pairs` where tokens have differing numbers of experts.
        loss: a scalar for `add_loss` beside the balancing loss, or `None`.
        measures: `{name: scalar}`, values for those `METRICS` of the gate that were measured, or
            `None`.
    """

    experts: tf.Tensor | None
    gates: tf.Tensor
    importance: tf.Tensor
    load: tf.Tensor
    pairs: Pairs | None = None
    loss: tf.Tensor | None = None
    measures: dict | None = None

    def assignments(self):
        """All pairs of a token and an expert, in the order of the tokens.

        Returns:
            Three tensors `[A]`: token (its number in the batch, int32), expert (int32) and gate.
        """
        if self.pairs is None:
            shape = tf.shape(self.experts)
            tokens = tf.repeat(tf.range(shape[0]), shape[1])
            return tokens, tf.reshape(self.experts, [-1]), tf.reshape(self.gates, [-1])
        tokens = tf.reshape(self.pairs.tokens, [-1])
        order = tf.argsort(tokens, stable=True)
        every = (tokens, self.pairs.experts(), tf.reshape(self.gates, [-1]))
        return tuple(tf.gather(each, order) for each in every)


def routing_of_pairs(selection, num_experts):
    """The `Routing` of a `PairSelection`: importance and load are sums over the pairs of all
    replicas, and so are its measures if the selection has none.
    """
    pairs, gates, loss, measures = selection
    importance = balancing.importance(pairs.experts(), gates, num_experts)
    importance, load = all_reduce_sums(importance, tf.cast(pairs.counts, gates.dtype))
    if measures is None:
        per_token = tf.math.bincount(
            tf.reshape(pairs.tokens, [-1]), minlength=pairs.num_tokens, maxlength=pairs.num_tokens
        )
        measures = measures_of_use(per_token)
    return Routing(None, gates, importance, load, pairs, loss, measures)


def measures_of_use(experts_per_token):
    """Metrics of a gate that gives tokens differing numbers of experts, from these numbers."""
    experts_per_token = tf.cast(experts_per_token, tf.float32)
    return {
        "experts_per_token": mean(experts_per_token),
        "unrouted": mean(tf.cast(experts_per_token == 0, tf.float32)),
    }


def mean(x):
    """The mean of all elements of all replicas; 0 where there are none."""
    return tf.math.divide_no_nan(*all_reduce_sums(tf.reduce_sum(x), tf.cast(tf.size(x), x.dtype)))


class Gate(keras.layers.Layer):
    """Base class of gates. A subclass implements `select` and `kernel_names`.

    A gate is written down without its number of experts, `NoisyTopK(k=4)`; the mixture that uses it
    makes its own copy for its number of experts with `for_experts`.

    Args:
        importance_weight: w_importance of eq 7, at least 0.
        load_weight: w_load of eq 11, at least 0.
        num_experts: E; set by the layer that uses the gate.
        num_groups: `None`, or G: then this is G gates at once, with kernels `[G, D, E]`, and
            `select` gets rows sorted by group (the secondary gates of a hierarchical mixture).

    Losses: in training, `w_importance · CV(Importance)² + w_load · CV(Load)²` goes to `add_loss`.
    In evaluation nothing is added, so that the loss of `evaluate` is the task's own.
    """

    can_be_level = True  # of a hierarchical mixture
    selects_pairs = False  # whether tokens get differing numbers of experts
    METRICS = ()  # names of what `Routing.measures` can have

    def __init__(
        self, importance_weight=0.0, load_weight=0.0, num_experts=None, num_groups=None, **kwargs
    ):
        super().__init__(**kwargs)
        self.supports_jit = False  # XLA cannot count the rows of an expert
        self.importance_weight = non_negative("importance_weight", importance_weight)
        self.load_weight = non_negative("load_weight", load_weight)
        self.num_experts = None if num_experts is None else positive("num_experts", num_experts)
        self.num_groups = num_groups
        self.kernels = {}

    def checked_k(self, k):
        """A subclass's number of experts per token, if it is one."""
        k = positive("k", k)
        if self.num_experts is not None and k > self.num_experts:
            raise ValueError(
                f"k must be at most {self.num_experts}, the number of experts (of groups, at the "
                f"first level of a hierarchical mixture) to choose from, got k={k}"
            )
        return k

    @property
    def kernel_names(self):
        """The names of the gate's `[D, E]` matrices; they count in operations per timestep."""
        raise NotImplementedError

    @property
    def num_selected(self):
        """K, the number of experts that each token goes to."""
        raise NotImplementedError

    def select(self, inputs, training=False, group_sizes=None):
        """Selects experts for each token.

        Args:
            inputs: `[T, D]` float, the gate's own type.
            training: whether noise, if the gate has any, is drawn.
            group_sizes: `None`, or for a stack of gates `[G]` int32: rows of each group, in order.

        Returns:
            A `Selection`, or a `PairSelection` if tokens have differing numbers of experts.
        """
        raise NotImplementedError

    def for_experts(self, num_experts, **changes):
        """A new, unbuilt gate of the same settings for `num_experts` experts."""
        # Not `from_config`: Keras turns the ValueErrors that it meets into TypeErrors.
        return type(self)(**{**self.get_config(), "num_experts": num_experts, **changes})

    def build(self, input_shape):
        if self.num_experts is None:
            raise ValueError(
                f"{type(self).__name__} was not told num_experts: give the gate to a MoE layer, or "
                "call gate.for_experts(num_experts) first"
            )
        stack = () if self.num_groups is None else (self.num_groups,)
        for name in self.kernel_names:
            self.kernels[name] = self.add_weight(
                name=name,
                shape=(*stack, input_shape[-1], self.num_experts),
                initializer=self.kernel_initializer(),
            )

    @property
    def num_local_groups(self):
        """How many gates of a stack this replica has; 1 for a single gate."""
        if self.num_groups is None:
            return 1
        return tf.convert_to_tensor(self.kernels[self.kernel_names[0]]).shape[0]

    def kernel_initializer(self):
        """Of the gate's matrices: zeros, so that all experts are equally likely (App. A)."""
        return keras.initializers.Zeros()

    def logits(self, name, inputs, group_sizes=None):
        """`inputs · kernel`: `[T, E]`, each row by its own group's kernel in a stack of gates;
        `[G, N, E]` for equally many rows of each group, `[G, N, D]`.
        """
        kernel = tf.convert_to_tensor(self.kernels[name])
        if self.num_groups is None or inputs.shape.rank == 3:
            return tf.matmul(inputs, kernel)
        return grouped_matmul(inputs, group_sizes, kernel)

    def route(self, inputs, training=False):
        """Selects experts for a batch and measures how evenly they are used; returns a `Routing`.

        Importance and load are those of the global batch, if this is one replica's part of it.
        """
        selection = self.select(inputs, training=training)
        if isinstance(selection, PairSelection):
            return routing_of_pairs(selection, self.num_experts)
        experts, gates, probability = selection
        load = (
            balancing.count(experts, self.num_experts, gates.dtype)
            if probability is None
            else tf.reduce_sum(probability, axis=0)
        )
        importance = balancing.importance(experts, gates, self.num_experts)
        return Routing(experts, gates, *all_reduce_sums(importance, load))

    def balancing_loss(self, routing):
        """`w_importance · CV(Importance)² + w_load · CV(Load)²` (eq 7 and 11) of a `Routing`."""
        return self.importance_weight * balancing.cv_squared(
            routing.importance
        ) + self.load_weight * balancing.cv_squared(routing.load)

    def call(self, inputs, training=False):
        routing = self.route(inputs, training=training)
        if training:
            self.add_losses(routing)
        return routing

    def add_losses(self, routing):
        """Adds the losses of a `Routing` to those of the layer."""
        self.add_loss(self.balancing_loss(routing))
        if routing.loss is not None:
            self.add_loss(routing.loss)

    def parameter_count(self, input_dim):
        """Weights of the gate (of all gates, in a stack) for inputs of width `input_dim`."""
        return (self.num_groups or 1) * self.ops_per_timestep(input_dim)

    def ops_per_timestep(self, input_dim):
        """Multiply-adds for one token (the paper's count: every `[D, E]` matrix of the gate)."""
        return len(self.kernel_names) * input_dim * self.num_experts

    def get_build_config(self):
        """Nothing: a gate read from a configuration is a description until a mixture builds its own
        copy, and must not allocate its kernels."""
        return None

    def get_config(self):
        return {
            **super().get_config(),
            "importance_weight": self.importance_weight,
            "load_weight": self.load_weight,
            "num_experts": self.num_experts,
            "num_groups": self.num_groups,
        }
