"""The sizes and settings of a mixture that the checks need.

Axes: E experts, K experts per token, T tokens of a training batch.
"""

from typing import NamedTuple

from tfmoe.inspection.doctor.finding import Setting

# Loss weights that balance without loss of quality: those of Fedus et al. 2021, and of the paper's
# language models.
DEFAULT_WEIGHTS = {"balance_weight": 0.01, "importance_weight": 0.1, "load_weight": 0.1}
OTHER_WEIGHT = 0.1
# Weights of losses that do not balance the batch.
OTHER_LOSSES = {"z_loss_weight", "sequence_weight"}
# Arguments of layers and gates that set a capacity, and whether it holds in training.
CAPACITIES = {"capacity_factor": True, "evaluation_capacity_factor": False}


class Limit(NamedTuple):
    """A capacity of the experts of a mixture, which its layer or its gate sets.

    Attributes:
        argument: the argument that sets it, such as `gate.capacity_factor`.
        factor: the value of the argument.
        of_mean: the capacity as a multiple of the mean load of an expert.
        is_idle_if_large: whether a factor far above `max_over_mean_load` has no effect: `False` for
            a level of a hierarchical gate, and if the gate's `minimum_capacity` is the capacity.
    """

    argument: str
    factor: float
    of_mean: float
    is_idle_if_large: bool = True

    @property
    def in_training(self):
        """Whether it holds in training; else in evaluation."""
        return last_part(self.argument) == "capacity_factor"


class Mixture(NamedTuple):
    """Sizes and settings of a mixture.

    Attributes:
        name: prefix of its metrics.
        num_experts: E.
        selected: K; the mean if tokens have different numbers of experts.
        key: prefix of the keys of its arguments, such as `model.blocks[1].`.
        weights: `((argument, value), …)` of its balancing losses, such as `gate.load_weight`.
        noise: whether the gate draws noise; `None` if it has no argument `noise`.
        limits: tuple of `Limit`s.
        tokens: T, of the global batch; `None` if unknown.
        bias_step: the step of a bias that balances the load; `None` without such a bias.
        ema: for moving averages as thresholds, the share that each batch keeps; else `None`.
        depends_on_batch: whether experts select their tokens from each batch, in evaluation too.
    """

    name: str
    num_experts: int
    selected: float
    key: str = ""
    weights: tuple = ()
    noise: bool | None = None
    limits: tuple = ()
    tokens: float | None = None
    bias_step: float | None = None
    ema: float | None = None
    depends_on_batch: bool = False

    @property
    def dense(self):
        """Whether every token goes to every expert."""
        return self.selected >= self.num_experts

    @property
    def expert_batch(self):
        """Tokens that an expert receives in a step, on average; `None` if unknown."""
        return None if self.tokens is None else self.selected * self.tokens / self.num_experts

    @property
    def chance(self):
        """The squared coefficient of variation of the load if experts were drawn at random; 0 if
        the batch is unknown.
        """
        return 1 / self.expert_batch if self.expert_batch and not self.dense else 0.0

    @property
    def balanced(self):
        """Whether the gate has a balancing loss."""
        return any(weight for _, weight in self.weights)

    def setting(self, argument):
        """The `Setting` of an argument of the layer or, `gate.NAME`, of its gate."""
        values = {**dict(self.weights), **{limit.argument: limit.factor for limit in self.limits}}
        now = values.get(argument, getattr(self, last_part(argument), None))
        return Setting(self.key + argument, now)

    def metric(self, row, name):
        """`(full name, value)` of a metric in a row of logs; the value is `None` if it is missing.

        Args:
            row: `{name: float}`.
            name: such as `cv_load`, or `val_cv_load` for validation.
        """
        part, name = ("val_", name[4:]) if name.startswith("val_") else ("", name)
        full = f"{part}{self.name}_{name}"
        return full, row.get(full)


def mixture_of(name, layer, key="", tokens=None):
    """The `Mixture` of a layer.

    Args:
        name: prefix of its metrics, as in `tfmoe.layers.mixtures_of`.
        layer: a `tfmoe.layers.MoE`, built or not.
        key, tokens: as for `Mixture`.
    """
    gate = layer.gate
    levels = [gate] if gate.secondary is None else [gate.primary, gate.secondary]
    config = levels[0].get_config()
    return Mixture(
        name,
        layer.num_experts,
        gate.num_selected,
        key,
        balancing_weights(layer),
        noise=config.get("noise"),
        limits=capacity_limits(layer, tokens),
        tokens=tokens,
        bias_step=config.get("bias_step"),
        ema=config.get("ema"),
        depends_on_batch=any(level.depends_on_batch for level in levels),
    )


def capacity_limits(layer, tokens=None):
    """The `Limit`s of a mixture: those of the layer, then those of its gate or the gate's levels.

    Args:
        layer: as for `mixture_of`.
        tokens: as for `Mixture`.
    """
    gate, limits = layer.gate, []
    for argument in CAPACITIES:
        factor = getattr(layer, argument, None)
        if factor is not None:
            limits.append(Limit(argument, factor, factor))
    if gate.secondary is None:
        mean = None if tokens is None else gate.num_selected * tokens / layer.num_experts
        return (*limits, *limits_of(gate, "gate.", mean))
    if getattr(layer, "groups", None):
        return (*limits, *limits_of(gate.primary, "gate.", is_level=True))
    inner = limits_of(gate.secondary, "gate.secondary.", is_level=True)
    return (*limits, *limits_of(gate.primary, "gate.primary.", is_level=True), *inner)


def limits_of(gate, prefix, mean=None, is_level=False):
    """The `Limit`s of a gate, `⌈factor · T / E⌉` tokens for an expert. A gate whose capacity is not
    an argument has none.

    Args:
        gate: a `tfmoe.gating.Gate`.
        prefix: prefix of its arguments.
        mean: the mean load of an expert, `K · T / E` tokens; `None` if it is unknown.
        is_level: whether the gate is a level of a hierarchical gate.
    """
    limits, config = [], gate.get_config()
    for argument, training in CAPACITIES.items():
        factor = gate.token_capacity(training)
        if factor is not None and argument in config:
            by_factor = factor / gate.num_selected
            by_minimum = gate.minimum_capacity / mean if mean else 0.0
            of_mean = max(by_factor, by_minimum)
            is_idle_if_large = not is_level and by_factor >= by_minimum
            limits.append(Limit(prefix + argument, factor, of_mean, is_idle_if_large))
    return limits


def balancing_weights(layer):
    """The weights of a mixture's balancing losses: `((argument, value), …)`.

    They are the arguments of its gate that end in `_weight`, except `OTHER_LOSSES`. A hierarchical
    gate also has those of the gates of its levels, except those that it has itself.
    """
    gate = layer.gate
    outer = weights_of(gate)
    weights = [(f"gate.{name}", value) for name, value in outer.items()]
    if gate.secondary is not None:
        prefix = "gate." if getattr(layer, "groups", None) else "gate.primary."
        inner = weights_of(gate.primary).items()
        weights += [(prefix + name, value) for name, value in inner if name not in outer]
    return tuple(weights)


def weights_of(gate):
    """`{argument: value}` of the weights of a gate's balancing losses."""
    config = gate.get_config()
    names = sorted(name for name in config if name.endswith("_weight"))
    return {name: config[name] for name in names if name not in OTHER_LOSSES}


def last_part(argument):
    """`"load_weight"` of `"gate.load_weight"`."""
    return argument.rpartition(".")[2]


def default_weight(argument):
    """A weight of a balancing loss that balances without loss of quality."""
    return DEFAULT_WEIGHTS.get(last_part(argument), OTHER_WEIGHT)
