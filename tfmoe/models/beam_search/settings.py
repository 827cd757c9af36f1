"""The settings of a beam search, and checks of its arguments."""

import dataclasses
import numbers
from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops import arguments


@dataclasses.dataclass
class Settings:
    """The settings of a beam search.

    Args:
        vocabulary_size: V.
        start_id: id of the symbol before a target.
        end_id: id of the symbol after a target. May equal `start_id`.
        beam_size: M, live hypotheses per sentence. May exceed V.
        num_best: K, hypotheses returned per sentence, up to M; `None` for M. The search stops
            earlier with a smaller K.
        length_penalty: α of `Scoring`. 0 ignores the length.
        coverage_penalty: β of `Scoring`. 0 ignores the coverage.
        keep_attention: whether to return the attention weights.
        pruning: maximum distance from the best (`beamsize` in Wu et al. 2016, who use 3.0); `None`
            prunes nothing. It prunes candidates of a step: the log-probability of an id given its
            hypothesis may be at most this far below the best one in the sentence at this step. And
            it prunes finished hypotheses: a score may be at most this far below the best score. A
            sentence stops when no live hypothesis can reach this bound.

    Raises:
        ValueError: if a value is out of range.

    Paper: the paper uses the search of Wu et al. but does not mention pruning; the default is not
    to prune.
    """

    vocabulary_size: int
    start_id: int
    end_id: int
    beam_size: int
    num_best: int | None = None
    length_penalty: float = 0.2
    coverage_penalty: float = 0.2
    keep_attention: bool = False
    pruning: float | None = None

    def __post_init__(self):
        self.beam_size = arguments.positive("beam_size", self.beam_size)
        self.vocabulary_size = arguments.positive("vocabulary_size", self.vocabulary_size)
        if self.num_best is None:
            self.num_best = self.beam_size
        self.num_best = arguments.positive("num_best", self.num_best)
        if self.num_best > self.beam_size:
            raise ValueError(
                f"num_best must be at most beam_size {self.beam_size}, got {self.num_best}"
            )
        self.start_id = _id("start_id", self.start_id, self.vocabulary_size)
        self.end_id = _id("end_id", self.end_id, self.vocabulary_size)
        self.length_penalty = arguments.non_negative("length_penalty", self.length_penalty)
        self.coverage_penalty = arguments.non_negative("coverage_penalty", self.coverage_penalty)
        self.pruning = arguments.positive_or_none("pruning", self.pruning)

    @property
    def reads_attention(self):
        """Whether the search uses the attention that `step` returns."""
        return bool(self.coverage_penalty or self.keep_attention)


class Sentences(NamedTuple):
    """The sentences of a search. Sizes are Python integers if known, else int32 scalars.

    Attributes:
        batch_size: B.
        max_length: `[B]` int32.
        longest: L, the maximum of `max_length`.
        source_mask: `[B, S]` bool. S is 0 if the search does not use attention.
        num_sources: S.
    """

    batch_size: int | tf.Tensor
    max_length: tf.Tensor
    longest: int | tf.Tensor
    source_mask: tf.Tensor
    num_sources: int | tf.Tensor


def checked_sentences(settings, states, batch_size, max_length, source_mask):
    """Checks the arguments of a search and returns them as `Sentences`.

    Raises:
        ValueError: if an argument has a wrong type, shape or value.
    """
    reads_attention = settings.reads_attention
    if source_mask is None and reads_attention:
        name = "coverage_penalty above 0" if settings.coverage_penalty else "keep_attention"
        raise ValueError(f"source_mask must be given with {name}")
    batch_size = _batch_size(batch_size)
    for state in tf.nest.flatten(states):
        _check_rows("states", state, batch_size)
    limits, longest = _limits(max_length, batch_size)
    if reads_attention:
        _check_rows("source_mask", source_mask, batch_size, rank=2)
        mask = tf.cast(source_mask, tf.bool)
    else:
        mask = tf.zeros([batch_size, 0], tf.bool)
    num_sources = tf.shape(mask)[1] if mask.shape[1] is None else mask.shape[1]
    return Sentences(batch_size, limits, longest, mask, num_sources)


def checked_output(name, width_name, x, width):
    """Checks the shape of an output of `step` and casts it to float32.

    Args:
        name: name of the output, for the error message.
        width_name: the argument that determines the width, for the error message.
        x: the output.
        width: expected width; `None` if unknown.

    Returns:
        `[N, width]` float32.

    Raises:
        ValueError: if the shape is not `[N, width]`.
    """
    x = tf.cast(x, tf.float32)
    if not x.shape.is_compatible_with([None, width]):
        raise ValueError(f"{width_name} is {width}, but step returned {name} of shape {x.shape}")
    return x


def _id(name, value, vocabulary_size):
    if not isinstance(value, numbers.Integral) or not 0 <= value < vocabulary_size:
        raise ValueError(
            f"{name} must be an integer from 0 to {vocabulary_size - 1} (vocabulary_size - 1), "
            f"got {value!r}"
        )
    return int(value)


def _batch_size(batch_size):
    """A Python integer if the value is known, else an int32 scalar."""
    tensor = tf.convert_to_tensor(batch_size)
    known = tf.get_static_value(tensor)
    if tensor.shape.rank or not tensor.dtype.is_integer or (known is not None and known < 0):
        raise ValueError(f"batch_size must be an integer of at least 0, got {batch_size!r}")
    return tf.cast(tensor, tf.int32) if known is None else int(known)


def _check_rows(name, x, batch_size, rank=None):
    """Raises a ValueError unless the static shape of x can have one row per sentence."""
    shape = tf.convert_to_tensor(x).shape
    known = tf.get_static_value(batch_size)
    rows_match = shape[:1].is_compatible_with([known]) if shape.rank != 0 else False
    if not rows_match or (rank is not None and shape.rank not in (None, rank)):
        raise ValueError(
            f"{name} must have a leading axis of batch_size{'' if known is None else f' {known}'}"
            f"{'' if rank is None else f' and {rank} axes'}, got shape {shape}"
        )


def _limits(max_length, batch_size):
    """Converts an integer or a vector of integers to `[B]` int32, and computes its maximum (a
    Python integer if the values are known).
    """
    limits = tf.convert_to_tensor(max_length)
    if not limits.dtype.is_integer or limits.shape.rank not in (0, 1):
        raise ValueError(f"max_length must be an integer or a vector of them, got {max_length!r}")
    if limits.shape.rank == 1:
        _check_rows("max_length", limits, batch_size)
    known = tf.get_static_value(limits)
    if known is not None:
        if (known < 1).any():
            raise ValueError(f"max_length must be at least 1, got {max_length!r}")
        longest = int(known.max(initial=1))
    else:
        tf.debugging.assert_positive(limits, f"max_length must be at least 1, got {max_length!r}")
        longest = tf.maximum(tf.cast(tf.reduce_max(limits), tf.int32), 1)
    return tf.broadcast_to(tf.cast(limits, tf.int32), [batch_size]), longest
