"""Where a model's mixtures send each token of a text, at evaluation.

Axes: B rows of a batch, S steps, T real tokens of the text, A pairs of a token and an expert that
it goes to.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmoe.layers import MoE
from tfmoe.models import LanguageModel, TranslationModel
from tfmoe.models.word_predictor import PADDING
from tfmoe.training.accounting import named_layers
from tfmoe.training.inspection.text import NumberedBatch


class RoutedText(NamedTuple):
    """A text, and where one mixture sends each of its tokens.

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


class TextRouter:
    """Follows texts through a model; one that is used again needs no new tracing.

    Args:
        model: a built `LanguageModel` or `TranslationModel`, on one device.

    Raises:
        ValueError: if the model is of another class.
    """

    def __init__(self, model):
        self.model = model
        self.mixtures = mixtures_of(model)
        self._assignments = tf.function(
            self._assignments_of_batch, [inputs_spec(model)], autograph=False
        )

    def _assignments_of_batch(self, inputs):
        """Of every mixture the tokens that it sees, `[B, S]`, and their assignments."""
        return [
            (tokens, layer.route(features, mask=tf.not_equal(tokens, PADDING)).assignments())
            for layer, features, tokens in mixture_inputs(self.model, inputs)
        ]

    def __call__(self, batches):
        """Follows a text. Arguments and returned value are those of `route_text`."""
        parts = {name: [] for name in self.mixtures}
        num_tokens, num_rows = dict.fromkeys(self.mixtures, 0), 0
        for batch in batches if self.mixtures else ():
            inputs, lines, starts = numbered(batch, num_rows)
            num_rows += len(lines)
            every = zip(self.mixtures, self._assignments(inputs), strict=True)
            for name, (tokens, (places, experts, gates)) in every:
                tokens = tokens.numpy()
                rows, steps = np.nonzero(tokens != PADDING)
                of_text = lines[rows], starts[rows] + steps, tokens[rows, steps]
                places = places.numpy().astype(np.int64) + num_tokens[name]
                parts[name].append((*of_text, places, experts.numpy(), gates.numpy()))
                num_tokens[name] += len(rows)
        return {
            name: in_order(layer.num_experts, *map(np.concatenate, zip(*parts[name], strict=True)))
            for name, layer in self.mixtures.items()
            if parts[name]
        }


def route_text(model, batches):
    """Follows a text through a model.

    Of a translation model, encoder layers see the source and decoder layers the reference target.

    Args:
        model: a built `LanguageModel` or `TranslationModel`, on one device.
        batches: `NumberedBatch`es (`numbered_batches`, `numbered_pairs`), or `(inputs, targets)` as
            for `fit`; the rows of these are numbered as lines in the order in which they come.

    Returns:
        `{name of the layer: RoutedText}`, in the order of the layers; empty if the model has no
        mixture.

    Raises:
        ValueError: if the model is of another class.
    """
    return TextRouter(model)(batches)


def mixtures_of(model):
    """`{name: MoE}` of a model, in the order of its blocks; a ValueError if it has no blocks."""
    if not isinstance(model, (LanguageModel, TranslationModel)):
        raise ValueError(
            "only a tfmoe.models.LanguageModel or TranslationModel can be inspected, got "
            f"{type(model).__name__}"
        )
    return {name: layer for name, layer in named_layers(model).items() if isinstance(layer, MoE)}


def inputs_spec(model):
    """What a call of a model takes, of any number of rows and steps: so it is traced once."""
    tokens = tf.TensorSpec([None, None], tf.int32)
    return tokens if isinstance(model, LanguageModel) else (tokens, tokens)


def mixture_inputs(model, inputs):
    """Yields `(layer, its input [B, S, D], tokens [B, S])` of every mixture, in order.

    Args:
        model: a built `LanguageModel` or `TranslationModel`.
        inputs: as for a call of it.
    """
    if isinstance(model, LanguageModel):
        stacks = [(model.blocks, inputs, model.features_by_block(inputs))]
    else:
        source, target = inputs
        *to_encoder, memory = model.encoder_features(source)
        to_decoder = model.decoder_features(target, memory, tf.not_equal(source, PADDING))
        stacks = [(model.encoder, source, to_encoder), (model.decoder, target, to_decoder)]
    for blocks, tokens, features_of_blocks in stacks:
        for block, features in zip(blocks, features_of_blocks, strict=False):
            if isinstance(block.layer, MoE):
                yield block.layer, features, tokens


def numbered(batch, num_rows):
    """Inputs, line numbers and starts of a batch that comes after `num_rows` rows."""
    if isinstance(batch, NumberedBatch):
        return batch
    inputs, _ = batch
    size = len(tf.nest.flatten(inputs)[0])
    return inputs, np.arange(num_rows + 1, num_rows + size + 1), np.zeros(size, np.int64)


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
