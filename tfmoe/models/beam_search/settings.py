"""What is searched for, and the checks of what a search is called with."""

import dataclasses
import numbers
from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops import arguments


@dataclasses.dataclass
class Settings:
    """What a search does, whatever the sentences.

    Args:
        vocabulary_size: V.
        start_id, end_id: the ids of the symbols around a target. They may be equal.
        beam_size: M. May be larger than V.
        num_best: K, up to M; `None` for M. With a smaller K the search stops sooner.
        length_penalty: α of `Scoring`. With 0 the length does not count.
        coverage_penalty: β of `Scoring`. With 0 the coverage does not count.
        keep_attention: whether to return the attention.
        pruning: how far below the best a hypothesis may be (`beamsize` in Wu et al. 2016, who take
            3.0); `None` prunes nothing. Two things are pruned. At each step, candidates whose id
            has, given its hypothesis, a log-probability more than this below that of the step's
            best id of any hypothesis of the sentence. Of the finished hypotheses, those whose score
            is more than this below the best one; a sentence stops when no live one can do better.

    Raises:
        ValueError: for a value out of its range.

    Paper: its search is that of Wu et al., but it does not say that it prunes; here it does not by
    default.
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
        """Whether the attention that `step` returns is looked at."""
        return bool(self.coverage_penalty or self.keep_attention)


class Sentences(NamedTuple):
    """The sentences of a search.

    Attributes:
        batch_size: B, a Python integer where it is known, else an int32 scalar.
        max_length: `[B]` int32.
        longest: L, the maximum of `max_length`, known or not likewise.
        source_mask: `[B, S]` bool. S is 0 where the attention is not looked at.
        num_sources: S, known or not likewise.
    """

    batch_size: int | tf.Tensor
    max_length: tf.Tensor
    longest: int | tf.Tensor
    source_mask: tf.Tensor
    num_sources: int | tf.Tensor


def checked_sentences(settings, states, batch_size, max_length, source_mask):
    """`Sentences` from the arguments of a search.

    Raises:
        ValueError: for an argument that does not fit.
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


def checked_output(what, width_name, x, width):
    """What `step` returns, as float32.

    Args:
        what: its name, for the error.
        width_name: what gives its width, for the error.
        x: the output.
        width: its width; `None` where it is not known.

    Returns:
        `[N, width]` float32.

    Raises:
        ValueError: for another shape.
    """
    x = tf.cast(x, tf.float32)
    if not x.shape.is_compatible_with([None, width]):
        raise ValueError(f"{width_name} is {width}, but step returns {what} of shape {x.shape}")
    return x


def _id(name, value, vocabulary_size):
    if not isinstance(value, numbers.Integral) or not 0 <= value < vocabulary_size:
        raise ValueError(
            f"{name} must be an integer of at least 0 and below vocabulary_size {vocabulary_size},"
            f" got {value!r}"
        )
    return int(value)


def _batch_size(batch_size):
    """A Python integer where it is known, else an int32 scalar."""
    tensor = tf.convert_to_tensor(batch_size)
    known = tf.get_static_value(tensor)
    if tensor.shape.rank or not tensor.dtype.is_integer or (known is not None and known < 0):
        raise ValueError(f"batch_size must be an integer of at least 0, got {batch_size!r}")
    return tf.cast(tensor, tf.int32) if known is None else int(known)


def _check_rows(name, x, batch_size, rank=None):
    """Raises a ValueError unless x has, as far as is known, a row for each sentence."""
    shape = tf.convert_to_tensor(x).shape
    known = tf.get_static_value(batch_size)
    rows = shape[:1].is_compatible_with([known]) if shape.rank != 0 else False
    if not rows or (rank is not None and shape.rank not in (None, rank)):
        raise ValueError(
            f"{name} must have a leading axis of batch_size{'' if known is None else f' {known}'}"
            f"{'' if rank is None else f' and {rank} axes'}, got a shape of {shape}"
        )


def _limits(max_length, batch_size):
    """`[B]` int32 from one integer or a row of them, and the maximum (a Python integer where it is
    known)."""
    limits = tf.convert_to_tensor(max_length)
    if not limits.dtype.is_integer or limits.shape.rank not in (0, 1):
        raise ValueError(f"max_length must be one integer or a row of them, got {max_length!r}")
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
