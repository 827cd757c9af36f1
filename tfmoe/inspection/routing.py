"""The experts of each token in a model's mixtures, in inference mode.

Axes: B rows of a batch, S steps, N rows of a call of a mixture, P positions in each of these rows,
T real tokens of the text, A pairs of a token and one of its experts.
"""

import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfmoe.inspection.calls import MixtureCalls, inputs_of
from tfmoe.inspection.text import NumberedBatch
from tfmoe.inspection.token_ids import TokenIds
from tfmoe.layers.mixture_layer import expert_layers_of


class RoutedText(NamedTuple):
    """The tokens of a text and their experts in one mixture.

    Tokens are in the order of the text. Pairs of a token and an expert are in the order of their
    tokens, and for each token in descending order of gate values. For other inputs than text (see
    `route_batches`), tokens are the positions of a row, and their ids are position numbers.

    Attributes:
        num_experts: E.
        lines: `[T]` int64, line number of each token.
        positions: `[T]` int64, position of each token in its line, from 0.
        tokens: `[T]` int32, id of each token.
        places: `[A]` int64, index of each pair's token, from 0 to T - 1.
        experts: `[A]` int32, expert of each pair.
        gates: `[A]` float32, `G(x)_i` of each pair.
    """

    num_experts: int
    lines: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray
    places: np.ndarray
    experts: np.ndarray
    gates: np.ndarray

    @property
    def shares(self) -> np.ndarray:
        """`[A]` float64, gate values normalised to sum to 1 for each token."""
        gates = self.gates.astype(np.float64)
        return gates / np.bincount(self.places, gates, len(self.tokens))[self.places]

    @property
    def ranks(self) -> np.ndarray:
        """`[A]` int64, rank of each pair among its token's pairs, from 1."""
        first = np.searchsorted(self.places, self.places)
        return np.arange(len(self.places)) - first + 1


class BatchRouter:
    """Routes batches through a model; tracing is reused between calls.

    Args:
        model: a built Keras model, see `route_batches`.

    Call arguments:
        batches: batches of inputs, see `route_batches`.

    Returns:
        `{name of the layer: RoutedText}`, as returned by `route_batches`.

    Attributes:
        mixtures: `{name: MoE}`, see `mixtures_of`.

    Raises:
        ValueError: if the model is not built.
    """

    def __init__(self, model: keras.Model):
        self._calls = MixtureCalls(model, decision_of)
        self.mixtures = self._calls.mixtures
        others = [] if self.mixtures else list(expert_layers_of(model))
        if others:
            warnings.warn(
                f"there is no routing to inspect: {', '.join(others)} has no gate that selects "
                "experts, since every expert of a SoftMoE computes averages of all tokens",
                stacklevel=2,
            )

    def __call__(self, batches: Iterable) -> dict[str, RoutedText]:
        """Routes batches, see `route_batches`."""
        parts: dict[str, list[RoutedText]] = {}
        num_rows = 0
        for batch in batches if self.mixtures else ():
            batch = as_numbered_batch(batch, num_rows)
            num_rows += len(batch.lines)
            for mixture, calls in self._calls(batch.inputs).items():
                decisions = [Decision(*(tensor.numpy() for tensor in call)) for call in calls]
                for name, decision in named_decisions(mixture, decisions, len(batch.lines)):
                    previous = parts.setdefault(name, [])
                    previous.append(self._part(mixture, decision, batch, previous))
        missing = [name for name in self.mixtures if name not in parts]
        if num_rows and missing:
            warnings.warn(
                f"no routing was recorded for {', '.join(missing)}: the layers do not run in "
                "inference mode, or they run in a tf.function within the model that was traced "
                "before; in the latter case, use tf.config.run_functions_eagerly(True)",
                stacklevel=2,
            )
        return {name: concatenate(texts) for name, texts in parts.items()}

    def ids(self, mixture, inputs, shape):
        """The token ids at the positions that a mixture processes.

        Args:
            mixture: name of the mixture.
            inputs: inputs of the batch.
            shape: shape of the mixture's inputs without the last axis.

        Returns:
            `[N, P]` integers.
        """
        num_positions = np.prod(shape[1:], dtype=np.int64)
        return np.broadcast_to(np.arange(num_positions), (shape[0], num_positions))

    def _part(self, mixture, decision, batch, previous):
        """The `RoutedText` of a mixture's decision for a batch, with tokens in any order.

        Args:
            mixture: name of the mixture.
            decision: its `Decision` for the batch.
            batch: `NumberedBatch`.
            previous: the `RoutedText`s of earlier batches.
        """
        ids = self.ids(mixture, batch.inputs, tuple(decision.shape.tolist()))
        rows, steps = np.divmod(decision.places, max(ids.shape[1], 1))
        if len(ids) == len(batch.lines):
            lines, positions = batch.lines[rows], batch.starts[rows] + steps
        else:  # the mixture's rows are not the batch's: number them separately
            last = max((part.lines.max(initial=0) for part in previous), default=0)
            lines, positions = last + 1 + rows, steps
        tokens = ids[rows, steps].astype(np.int32)
        num_experts = self.mixtures[mixture].num_experts
        pairs = decision.tokens, decision.experts, decision.gates
        return RoutedText(num_experts, lines, positions, tokens, *pairs)


class TextRouter(BatchRouter):
    """Routes texts through a model; tracing is reused between calls.

    Args:
        model: a built Keras model, see `route_text`.
        tokens: function or layer that returns the token ids of a mixture, see `route_text`.

    Call arguments:
        batches: batches of token ids, see `route_text`.

    Returns:
        `{name of the layer: RoutedText}`, as returned by `route_text`.

    Attributes:
        mixtures: `{name: MoE}`, see `mixtures_of`.

    Raises:
        ValueError: if the model is not built.
    """

    def __init__(self, model: keras.Model, tokens: Callable | keras.Layer | None = None):
        super().__init__(model)
        self._token_ids = TokenIds(model, tokens)

    def ids(self, mixture, inputs, shape):
        ids = self._token_ids(mixture, inputs, shape)
        return super().ids(mixture, inputs, shape) if ids is None else ids


def route_text(
    model: keras.Model, batches: Iterable, tokens: Callable | keras.Layer | None = None
) -> dict[str, RoutedText]:
    """Routes a text through a model and records the experts of each token.

    In a `TranslationModel`, encoder layers process the source, and decoder layers the reference
    target.

    Args:
        model: a built Keras model, on one device. For token ids `[B, S]`, its mixtures process
            `[B, S, D]`, `[B·S, D]`, or S times `[B, D]`. Positions that a mixture's mask excludes
            are skipped.
        batches: `NumberedBatch`es (from `numbered_batches` or `numbered_pairs`), or `(inputs,
            targets)` as in `fit`, whose rows are numbered consecutively as lines.
            Several inputs are a dictionary or a tuple in this tuple: `((first, second),)`.
        tokens: a function `(mixture name, inputs) -> ids [B, S]` that returns the token ids of a
            mixture's positions, or `None` for a mixture that processes no tokens: then positions
            are ids. Or a layer that computes the ids of the inputs, such as `TextVectorization`.
            `None` for the only integer input with the mixture's positions; for the input
            `token_ids` (KerasHub) of several; for what the model's only `TextVectorization` layer
            returns, if it has one and no integer input.

    Returns:
        `{name of the layer: RoutedText}`, in order of execution, by the names of `mixtures_of`. The
        second call of a layer is named `"NAME (call 2)"`. Empty if the model has no mixture.

    Raises:
        ValueError: if the model is not built, the ids of a mixture are ambiguous, or the routing of
            a mixture cannot be recorded because it runs in a TensorFlow loop or function.

    Example:
        >>> from tfmoe.inspection import route_text
        >>> layers = [keras.layers.Embedding(9, 4), MoE(num_experts=4, hidden_units=5, name="moe")]
        >>> model = keras.Sequential([keras.Input([None], dtype="int32"), *layers])
        >>> route_text(model, [np.array([[1, 2, 3]])])["moe"].tokens
        array([1, 2, 3], dtype=int32)
    """
    return TextRouter(model, tokens)(batches)


def route_batches(model: keras.Model, batches: Iterable) -> dict[str, RoutedText]:
    """Routes inputs of any kind through a model: features, images, or text without token ids.

    The token ids of the result are position numbers: `h·W + w` for a mixture with inputs
    `[B, H, W, D]`. If a mixture's inputs do not have the batch's number of rows, their rows are
    numbered separately as lines.

    Args:
        model: a built Keras model, on one device. Positions that a mixture's mask excludes are
            skipped.
        batches: `NumberedBatch`es, or `(inputs, targets)` as in `fit`, whose rows are numbered
            consecutively as lines.

    Returns:
        `{name of the layer: RoutedText}`, in order of execution, by the names of `mixtures_of`. The
        second call of a layer is named `"NAME (call 2)"`. Empty if the model has no mixture.

    Raises:
        ValueError: if the model is not built, or the routing of a mixture cannot be recorded
            because it runs in a TensorFlow loop or function.
    """
    return BatchRouter(model)(batches)


class Decision(NamedTuple):
    """The routing decision of a mixture in one call.

    Attributes:
        shape: shape of the inputs without the last axis, as in `tfmoe.layers.recording.Recording`.
        places: `[T]`, positions of the tokens, as in `Recording`.
        tokens: `[A]`, token of each assignment, in ascending order.
        experts: `[A]`, expert of each assignment.
        gates: `[A]`, gate value of each assignment.
    """

    shape: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    experts: np.ndarray
    gates: np.ndarray


def decision_of(recording):
    """The `Decision` of a recording, consisting of tensors."""
    return Decision(recording.shape, recording.positions, *recording.routing.assignments.by_token())


def named_decisions(name, decisions, num_rows):
    """The decisions of a mixture for one batch, with their names.

    Calls with one token for each row of the batch are joined as steps of one call. Other calls get
    separate names.

    Args:
        name: name of the mixture.
        decisions: list of `Decision`, one per call.
        num_rows: rows of the batch.

    Returns:
        List of `(name, Decision)`.
    """
    if len(decisions) > 1 and all(call.shape.tolist() == [num_rows] for call in decisions):
        return [(name, join_steps(decisions))]
    names = [name, *(f"{name} (call {i})" for i in range(2, len(decisions) + 1))]
    return list(zip(names, decisions, strict=True))


def join_steps(decisions):
    """Joins the decisions of S calls for `[B]` positions to a decision for `[B, S]` positions."""
    num_steps = len(decisions)
    offsets = np.cumsum([0, *(len(step.places) for step in decisions)])
    return Decision(
        np.append(decisions[0].shape, num_steps),
        np.concatenate([step.places * num_steps + i for i, step in enumerate(decisions)]),
        np.concatenate([step.tokens + offsets[i] for i, step in enumerate(decisions)]),
        np.concatenate([step.experts for step in decisions]),
        np.concatenate([step.gates for step in decisions]),
    )


def as_numbered_batch(batch, num_rows):
    """Converts a batch to a `NumberedBatch` whose first line number is `num_rows + 1`."""
    if isinstance(batch, NumberedBatch):
        return batch
    inputs = inputs_of(batch)
    size = len(tf.nest.flatten(inputs)[0])
    lines = np.arange(num_rows + 1, num_rows + size + 1)
    return NumberedBatch(inputs, lines, np.zeros(size, np.int64))


def concatenate(parts):
    """Concatenates the `RoutedText`s of several batches, whose tokens may be in any order."""
    offsets = np.cumsum([0, *(len(part.tokens) for part in parts)])
    shifted = [
        part._replace(places=part.places.astype(np.int64) + offset)
        for part, offset in zip(parts, offsets, strict=False)
    ]
    _, *arrays = zip(*shifted, strict=True)
    return sorted_text(parts[0].num_experts, *map(np.concatenate, arrays))


def sorted_text(num_experts, lines, positions, tokens, places, experts, gates):
    """The `RoutedText` of unsorted arrays."""
    order = np.lexsort((positions, lines))
    new_index = np.empty_like(order)
    new_index[order] = np.arange(len(order))
    places = new_index[places]
    pairs = np.lexsort((experts, -gates, places))
    return RoutedText(
        num_experts,
        lines[order],
        positions[order],
        tokens[order],
        places[pairs],
        experts[pairs],
        gates[pairs].astype(np.float32),
    )
