"""Where a model's mixtures send each token, at evaluation.

Axes: B rows of a batch, S steps, N rows of a call of a mixture, P positions in each of them, T real
tokens of the text, A pairs of a token and an expert that it goes to.
"""

import warnings
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmoe.inspection.calls import MixtureCalls, inputs_of
from tfmoe.inspection.text import NumberedBatch
from tfmoe.layers.mixture_layer import mixtures_of


class RoutedText(NamedTuple):
    """A text, and where one mixture sends each of its tokens. Of inputs that are no text
    (`route_batches`), tokens are the positions of a row, and their ids are position numbers.

    Tokens are in the order of the text. Pairs are in the order of their tokens, those of a token by
    their gate values, the largest first.

    Attributes:
        num_experts: E.
        lines: `[T]` int64, the number of each token's line.
        positions: `[T]` int64, its place in the line, from 0.
        tokens: `[T]` int32, its id.
        places: `[A]` int64, of each pair the token, its index in the above.
        experts: `[A]` int32.
        gates: `[A]` float32, `G(x)_i`.
    """

    num_experts: int
    lines: np.ndarray
    positions: np.ndarray
    tokens: np.ndarray
    places: np.ndarray
    experts: np.ndarray
    gates: np.ndarray

    @property
    def shares(self):
        """`[A]` float64, gate values as shares of their token's, which sum to 1."""
        gates = self.gates.astype(np.float64)
        return gates / np.bincount(self.places, gates, len(self.tokens))[self.places]

    @property
    def ranks(self):
        """`[A]` int64, the rank of each pair among those of its token, from 1."""
        first = np.searchsorted(self.places, self.places)
        return np.arange(len(self.places)) - first + 1


class BatchRouter:
    """Follows batches through a model; one that is used again needs no new tracing.

    Args:
        model: as for `route_batches`.

    Attributes:
        mixtures: `{name: MoE}`, see `mixtures_of`.

    Raises:
        ValueError: if the model is not built.
    """

    def __init__(self, model):
        self._calls = MixtureCalls(model, decision)
        self.mixtures = self._calls.mixtures

    def __call__(self, batches):
        """Follows batches. Arguments and returned value are those of `route_batches`."""
        parts, num_rows = {}, 0
        for batch in batches if self.mixtures else ():
            batch = numbered(batch, num_rows)
            num_rows += len(batch.lines)
            for mixture, decisions in self._calls(batch.inputs).items():
                decisions = [Decision(*(each.numpy() for each in call)) for call in decisions]
                for name, made in named(mixture, decisions, len(batch.lines)):
                    of_name = parts.setdefault(name, [])
                    of_name.append(self._part(mixture, made, batch, of_name))
        missing = [name for name in self.mixtures if name not in parts]
        if num_rows and missing:
            warnings.warn(
                f"nothing was seen of {', '.join(missing)}: they do not run at evaluation, or run "
                "in a tf.function within the model that was traced before: then use "
                "tf.config.run_functions_eagerly(True)",
                stacklevel=2,
            )
        return {name: joined(of_name) for name, of_name in parts.items()}

    def ids(self, mixture, inputs, shape):
        """The ids of the tokens that a mixture sees.

        Args:
            mixture: its name.
            inputs: of the batch.
            shape: of the mixture's inputs without their last axis.

        Returns:
            `[N, P]` integers.
        """
        positions = np.prod(shape[1:], dtype=np.int64)
        return np.broadcast_to(np.arange(positions), (shape[0], positions))

    def _part(self, mixture, made, batch, before):
        """The `RoutedText` of what a mixture decided for a batch, in any order; `before` are those
        of earlier batches.
        """
        ids = self.ids(mixture, batch.inputs, tuple(made.shape.tolist()))
        rows, steps = np.divmod(made.places, max(ids.shape[1], 1))
        if len(ids) == len(batch.lines):
            lines, positions = batch.lines[rows], batch.starts[rows] + steps
        else:  # rows of its own
            last = max((part.lines.max(initial=0) for part in before), default=0)
            lines, positions = last + 1 + rows, steps
        tokens = ids[rows, steps].astype(np.int32)
        num_experts = self.mixtures[mixture].num_experts
        return RoutedText(
            num_experts, lines, positions, tokens, made.tokens, made.experts, made.gates
        )


class TextRouter(BatchRouter):
    """Follows texts through a model; one that is used again needs no new tracing.

    Args:
        model, tokens: as for `route_text`.

    Attributes:
        mixtures: `{name: MoE}`, see `mixtures_of`.

    Raises:
        ValueError: if the model is not built.
    """

    def __init__(self, model, tokens=None):
        super().__init__(model)
        if tokens is None and hasattr(model, "tokens_by_block"):
            tokens = tokens_of_blocks(model)
        self._tokens = tokens

    def ids(self, mixture, inputs, shape):
        if self._tokens is not None:
            inputs = self._tokens(mixture, inputs)
        every = [np.asarray(each) for each in tf.nest.flatten(inputs)]
        every = [each for each in every if np.issubdtype(each.dtype, np.integer)]
        seen = [each for each in every if each.ndim == 2 and shape in (each.shape, (each.size,))]
        if len(seen) != 1:
            given = ", ".join(str(list(each.shape)) for each in every) or "none"
            raise ValueError(
                f"{mixture} sees positions of shape {list(shape)}, which must be the shape [B, S] "
                f"of one input of integer token ids, got {given}: say by tokens=… which ids it "
                "sees, or use route_batches, which needs no words"
            )
        return seen[0]


def route_text(model, batches, tokens=None):
    """Follows a text through a model.

    Of a `TranslationModel`, encoder layers see the source and decoder layers the reference target.

    Args:
        model: a built Keras model, on one device. Its mixtures see `[B, S, D]` (or `[B·S, D]`, or
            S times `[B, D]`) for inputs of token ids `[B, S]`. Positions that are masked where a
            mixture gets them are left out.
        batches: `NumberedBatch`es (`numbered_batches`, `numbered_pairs`), or `(inputs, targets)` as
            for `fit`; the rows of these are numbered as lines in the order in which they come.
        tokens: for a model with several inputs of token ids: a function of the name of a mixture
            and of the inputs of a batch, which returns the ids `[B, S]` that the mixture sees.

    Returns:
        `{name of the layer: RoutedText}`, in the order in which the layers run, by the names of
        `mixtures_of`; a second call of one layer is `"NAME (call 2)"`. Empty if the model has no
        mixture.

    Raises:
        ValueError: if the model is not built; if it is not clear which ids a mixture sees; if the
            routing of a mixture cannot be got at, see `MixtureCalls`.

    Example:
        >>> from tfmoe.inspection import route_text
        >>> layers = [keras.layers.Embedding(9, 4), MoE(num_experts=4, hidden_units=5, name="moe")]
        >>> model = keras.Sequential([keras.Input([None], dtype="int32"), *layers])
        >>> route_text(model, [np.array([[1, 2, 3]])])["moe"].tokens
        array([1, 2, 3], dtype=int32)
    """
    return TextRouter(model, tokens)(batches)


def route_batches(model, batches):
    """Follows inputs of any kind through a model: features, images, or text without its words.

    The tokens of the result are numbers of positions: of inputs `[B, H, W, D]` of a mixture, `h·W +
    w`. Where a mixture sees another number of rows than the batch has, its own rows are numbered as
    lines.

    Args:
        model: a built Keras model, on one device. Positions that are masked where a mixture gets
            them are left out.
        batches: as for `route_text`.

    Returns:
        `{name of the layer: RoutedText}`, as `route_text`.

    Raises:
        ValueError: if the model is not built; if the routing of a mixture cannot be got at, see
            `MixtureCalls`.
    """
    return BatchRouter(model)(batches)


class Decision(NamedTuple):
    """What a mixture decided in a call: its shape and places as in
    `tfmoe.layers.recording.Recording`, and its assignments `[A]`, sorted by token.
    """

    shape: np.ndarray
    places: np.ndarray
    tokens: np.ndarray
    experts: np.ndarray
    gates: np.ndarray


def decision(recording):
    """A `Decision`, of tensors."""
    return Decision(recording.shape, recording.positions, *recording.routing.assignments.by_token())


def named(name, decisions, num_rows):
    """The decisions of a mixture for one batch, as `(name, Decision)`. Calls with one token for
    each row of the batch are steps of one call; others have names of their own.
    """
    if len(decisions) > 1 and all(each.shape.tolist() == [num_rows] for each in decisions):
        return [(name, of_steps(decisions))]
    names = [name, *(f"{name} (call {i})" for i in range(2, len(decisions) + 1))]
    return list(zip(names, decisions, strict=True))


def of_steps(decisions):
    """The decision for `[B, S]` positions, of those for S times `[B]`."""
    num_steps = len(decisions)
    before = np.cumsum([0, *(len(each.places) for each in decisions)])
    return Decision(
        np.append(decisions[0].shape, num_steps),
        np.concatenate([each.places * num_steps + i for i, each in enumerate(decisions)]),
        np.concatenate([each.tokens + before[i] for i, each in enumerate(decisions)]),
        np.concatenate([each.experts for each in decisions]),
        np.concatenate([each.gates for each in decisions]),
    )


def tokens_of_blocks(model):
    """The argument `tokens` of `route_text` for a model that tells `tokens_by_block`."""
    names = {id(mixture): name for name, mixture in mixtures_of(model).items()}
    block_of = {
        names[id(mixture)]: index
        for index, block in enumerate(model.blocks)
        for mixture in mixtures_of(block).values()
    }

    def tokens(mixture, inputs):
        index = block_of.get(mixture)
        return inputs if index is None else model.tokens_by_block(inputs)[index]

    return tokens


def numbered(batch, num_rows):
    """A batch that comes after `num_rows` rows, as `NumberedBatch`."""
    if isinstance(batch, NumberedBatch):
        return batch
    inputs = inputs_of(batch)
    size = len(tf.nest.flatten(inputs)[0])
    lines = np.arange(num_rows + 1, num_rows + size + 1)
    return NumberedBatch(inputs, lines, np.zeros(size, np.int64))


def joined(parts):
    """The `RoutedText` of those of several batches, whose tokens may be in any order."""
    before = np.cumsum([0, *(len(part.tokens) for part in parts)])
    shifted = [
        part._replace(places=part.places.astype(np.int64) + start)
        for part, start in zip(parts, before, strict=False)
    ]
    _, *arrays = zip(*shifted, strict=True)
    return in_order(parts[0].num_experts, *map(np.concatenate, arrays))


def in_order(num_experts, lines, positions, tokens, places, experts, gates):
    """A `RoutedText` of arrays in any order."""
    order = np.lexsort((positions, lines))
    place_of = np.empty_like(order)
    place_of[order] = np.arange(len(order))
    places = place_of[places]
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
