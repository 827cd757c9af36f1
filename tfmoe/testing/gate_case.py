"""A gate in a mixture, as the checks use it.

Axes: D width.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tfmoe import gating
from tfmoe.gating import Gate
from tfmoe.testing.device_runs import Result, train
from tfmoe.testing.mixtures import MIXTURES, gate_options, make_mixture

# A network that uses every option of experts; no token is dropped at first.
NETWORK = {"depth": 2, "use_bias": True, "activation": "tanh", "capacity_factor": 4.0}
X = np.random.default_rng(0).standard_normal((24, 3, 5)).astype("float32")
Y = np.sin(X[..., :2])


class Trained(NamedTuple):
    """A model after training.

    Attributes:
        model: has the mixture as its layer `moe`.
        before: the values of its weights before training.
        history: `{name: [value of each epoch]}`.
    """

    model: keras.Model
    before: list
    history: dict


class GateCase:
    """A gate in a mixture, and the results that several checks use.

    Args:
        make_layer: function of keyword arguments of the mixture; returns a new layer with the gate,
            named `moe`.
        name: the name in messages.
        gate: the tested gate; `None` for that of the layer.
    """

    def __init__(
        self,
        make_layer: Callable,
        name: str,
        gate: Gate | None = None,
    ):
        self.make_layer = make_layer
        self.name = name
        self._gate = gate
        self._runs: dict[tuple, Result] = {}

    def __repr__(self):
        return f"GateCase({self.name})"

    @functools.cached_property
    def gate(self) -> Gate:
        """The tested gate, from which mixtures get copies."""
        if self._gate is not None:
            return self._gate
        layer = self.make_layer()
        return layer.gate.primary if layer.groups is not None else layer.gate

    def make_model(self, **options) -> keras.Model:
        """A functional model with the mixture.

        Args:
            **options: arguments of the mixture, which replace those of `NETWORK`.
        """
        inputs = keras.Input([None, X.shape[-1]])
        layer = self.make_layer(**{**NETWORK, **options})
        hidden = layer(inputs, **gate_options(layer, inputs))
        return keras.Model(inputs, keras.layers.Dense(2, name="out")(hidden))

    @functools.cached_property
    def trained(self) -> Trained:
        """A model after two epochs."""
        keras.utils.set_random_seed(3)
        model = self.make_model()
        before = [weight.numpy() for weight in model.weights]
        return Trained(model, before, fit(model))

    @functools.cached_property
    def evaluated(self) -> dict:
        """`{name: value}`, what `evaluate` of the trained model returns."""
        return self.trained.model.evaluate(X, Y, verbose=0, return_dict=True, batch_size=24)

    def trained_on(self, devices: int | None, dtype: str = "float64", kind=None, **options):
        """The result of training on several devices, or without a strategy; computed once.

        Args:
            devices: the number of devices; `None` for no strategy.
            dtype: floating-point type.
            kind: the class of the strategy; `None` for `tfmoe.distribute.MixedStrategy`.
            **options: arguments of the mixture.

        Returns:
            `tfmoe.testing.device_runs.Result`.
        """
        key = (devices, dtype, kind, *sorted(options.items()))
        if key not in self._runs:
            self._runs[key] = train(self.make_layer, devices, dtype, kind, **options)
        return self._runs[key]


def fit(model: keras.Model, epochs: int = 2, eagerly: bool = False) -> dict:
    """Trains a model for the inputs `X` and the targets `Y`; returns the history."""
    model.compile(keras.optimizers.Adam(0.01), "mse", run_eagerly=eagerly)
    if model.built:
        model.optimizer.build(model.trainable_variables)  # else `fit` traces a step twice
    return model.fit(X, Y, batch_size=8, epochs=epochs, verbose=0, shuffle=True).history


def gate_cases(
    gate: Gate | str | dict,
    mixtures: Iterable[str] | Mapping[str, Callable[[Any], dict]] | None = None,
    num_experts: int = 12,
) -> dict[str, GateCase]:
    """A gate in several mixtures: `flat`, with `groups` (the gate at both levels of a hierarchical
    mixture), and as the `outer` and the `inner` level of a hierarchical mixture.

    Args:
        gate: a gate without a number of experts, with all its losses enabled; or its name or
            config.
        mixtures: names in `MIXTURES`, or a dictionary like it; `None` for all, or only `flat` for a
            gate that cannot be a level of a hierarchical mixture: one that needs token ids.
        num_experts: the number of experts. The groups are 4, so a gate at the inner level has a
            fourth of them.

    Returns:
        `{name of the mixture: GateCase}`.

    Raises:
        ValueError: a name is not in `MIXTURES`.

    Example:
        >>> from tfmoe.testing import gate_cases
        >>> list(gate_cases(TopK(k=2)))
        ['flat', 'groups', 'outer', 'inner']
    """
    resolved = gating.get(gate)
    if mixtures is None:
        is_level = not resolved.needs_token_ids and resolved.secondary is None
        mixtures = MIXTURES if is_level else ("flat",)
    if not isinstance(mixtures, Mapping):
        unknown = [name for name in mixtures if name not in MIXTURES]
        if unknown:
            raise ValueError(f"mixtures must be among {', '.join(MIXTURES)}, got {unknown[0]!r}")
        mixtures = {name: MIXTURES[name] for name in mixtures}
    name, make_gate = type(resolved).__name__, functools.partial(copied, resolved)
    return {
        mixture: GateCase(
            functools.partial(make_mixture, arguments_of, make_gate, num_experts),
            f"{name} ({mixture})",
            resolved,
        )
        for mixture, arguments_of in mixtures.items()
    }


def copied(gate):
    """A gate with the same settings and the same seed, without `Gate.for_experts`."""
    return type(gate).from_config(gate.get_config())
