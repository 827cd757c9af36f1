"""Beam search in the graph, scored as in Wu et al. 2016, section 7 (arXiv:1609.08144).

Axes: B sentences, M live hypotheses per sentence (the beam), N = B * M rows, V vocabulary,
L longest target, S source positions, K hypotheses given per sentence.

A hypothesis Y for the source X scores

    s(Y, X) = log P(Y|X) / lp(Y) + cp(X, Y)
    lp(Y) = ((5 + |Y|) / (5 + 1))^α
    cp(X, Y) = β Σ_i log(min(Σ_j p_ij, 1))

with p_ij the attention of target step j to source position i. `|Y|` and the sum over j count the
end symbol, so that `lp` of the empty translation is 1.
"""

import numbers
from typing import NamedTuple

import tensorflow as tf

from tfmoe.ops import arguments

TINY = 1.2e-38  # about the least normal float32: attention below it counts as this much
NEVER = float("-inf")


class Hypotheses(NamedTuple):
    """The best hypotheses of each sentence, best first.

    A sentence with fewer than K hypotheses has empty places at the end: both scores `-inf`, length
    0.

    Attributes:
        ids: `[B, K, L]` int32, without start and end symbol, padded at the end with 0. L is the
            largest `max_length`.
        lengths: `[B, K]` int32, ids of each hypothesis. `max_length` of the sentence where the
            hypothesis was cut off, less where it ended.
        scores: `[B, K]` float32 `s(Y, X)`, falling.
        log_probabilities: `[B, K]` float32 `log P(Y|X)`, in nats, the end symbol counted.
        attention: `[B, K, L, S]` float32: the attention of the step that gave each id, then of the
            step that gave the end symbol, then 0. `None` unless asked for.
    """

    ids: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    log_probabilities: tf.Tensor
    attention: tf.Tensor | None = None


class _Live(NamedTuple):
    """Hypotheses that have not ended.

    Attributes:
        newest: `[B, M]` int32, the id that `step` reads next.
        ids: `[B, M, L]` int32.
        log_probabilities: `[B, M]` float32, `-inf` where there is no hypothesis.
        coverage: `[B, M, S]` float32, the sum of the attention so far. S is 0 where nobody asks.
        attention: `[B, M, L, S]` float32. S is 0 unless asked for.
    """

    newest: tf.Tensor
    ids: tf.Tensor
    log_probabilities: tf.Tensor
    coverage: tf.Tensor
    attention: tf.Tensor


def beam_search(
    step,
    states,
    *,
    batch_size,
    start_id,
    end_id,
    vocabulary_size,
    beam_size,
    max_length,
    length_penalty=0.2,
    coverage_penalty=0.2,
    source_mask=None,
    num_best=None,
    keep_attention=False,
):
    """Finds the sequences of the highest score, starting with `start_id`, ending with `end_id`.

    Args:
        step: function of `(ids, states)`, ids `[N]` int32, the newest id of each row. Returns
            `(log_probabilities, attention, states)`: `[N, V]` floating point, at most 0; `[N, S]`
            floating point or `None`; states of the same structure and shapes. Row `b * M + m` is
            hypothesis m of sentence b. It must treat each row for itself. What is the same for all
            hypotheses of a sentence, as the encoder's output, is best left out of the states and
            closed over, made once with `tile`: states are copied at every step.
        states: nested structure of tensors with leading axis B, which begin every sentence.
        batch_size: B, a Python integer or a scalar tensor.
        start_id, end_id: Python integers. They may be equal.
        vocabulary_size: V, a Python integer.
        beam_size: M, a Python integer. May be larger than V.
        max_length: the most symbols of a hypothesis, the end symbol counted. Integer, or `[B]`
            integers.
        length_penalty: α. 0 leaves the length out.
        coverage_penalty: β. 0 leaves the coverage out.
        source_mask: `[B, S]` bool, which source positions are real. Needed for `coverage_penalty`
            above 0 and for `keep_attention`; else the attention is not looked at.
        num_best: K, a Python integer up to M, M by default. The fewer, the sooner the search stops.
        keep_attention: whether to return the attention.

    Returns:
        `Hypotheses`.

    Raises:
        ValueError: for an argument out of its range, or an output of `step` that does not fit.
        tf.errors.InvalidArgumentError: for a `max_length` below 1 that is known only at run time.

    At each step the candidates are all continuations of the M live hypotheses, ranked by
    `log P`: the live ones are of one length, and how much of the source they will cover is not
    known yet. Of the M best candidates, those that end with `end_id` are finished. The M best that
    do not end live on, so a finished hypothesis takes no place from them. Among equals the
    hypothesis of the better rank comes first, then the lower id; among finished ones of equal score
    the one that ended first. Nothing is pruned.

    A sentence stops when its K best finished hypotheses are certain: `log P` can only fall, `lp`
    only grow to that of `max_length`, `cp` is at most 0, so that `log P / lp(max_length)` bounds
    what a live hypothesis can reach. It stops at its `max_length` in any case. If none has finished
    until then, the live hypotheses, cut off, are given instead, scored by the same formula.

    With both penalties 0, `beam_size=1` is greedy search: when the end symbol is the best candidate
    no other can overtake it. With a penalty the second best lives on, and wins if it scores higher
    in the end.

    A NaN in the log-probabilities counts as `-inf`, and a candidate of `-inf` is none. Where the
    attention to a position is 0 to the last bit, its logarithm is that of the least float32 and not
    `-inf`, which would make all translations equal. A hypothesis whose attention is NaN never wins.
    """
    beam_size = arguments.positive("beam_size", beam_size)
    vocabulary_size = arguments.positive("vocabulary_size", vocabulary_size)
    num_best = beam_size if num_best is None else arguments.positive("num_best", num_best)
    if num_best > beam_size:
        raise ValueError(f"num_best must be at most beam_size {beam_size}, got {num_best}")
    start_id = _id("start_id", start_id, vocabulary_size)
    end_id = _id("end_id", end_id, vocabulary_size)
    alpha = arguments.non_negative("length_penalty", length_penalty)
    beta = arguments.non_negative("coverage_penalty", coverage_penalty)
    if source_mask is None and (beta or keep_attention):
        name = "coverage_penalty above 0" if beta else "keep_attention"
        raise ValueError(f"source_mask must be given with {name}")
    batch_size = _batch_size(batch_size)
    for state in tf.nest.flatten(states):
        _check_rows("states", state, batch_size)
    limits, longest = _limits(max_length, batch_size)

    if beta or keep_attention:
        _check_rows("source_mask", source_mask, batch_size, rank=2)
        mask = tf.cast(source_mask, tf.bool)
    else:
        mask = tf.zeros([batch_size, 0], tf.bool)  # then nothing is attended to or covered
    num_sources = mask.shape[1] if mask.shape[1] is not None else tf.shape(mask)[1]
    num_kept = num_sources if keep_attention else 0
    branches = min(beam_size + 1, vocabulary_size)  # enough: one of them ends

    def score(log_probabilities, length, coverage):
        # In float64: float32 logarithms and powers differ in the last bit with a row's place among
        # the others, and that must not show.
        scores = tf.cast(log_probabilities, tf.float64) / penalty(length, alpha)
        if beta:
            covered = tf.math.log(tf.cast(tf.clip_by_value(coverage, TINY, 1.0), tf.float64))
            scores += beta * tf.reduce_sum(tf.where(mask[:, None], covered, 0.0), axis=2)
        return _no_nan(tf.cast(scores, tf.float32))

    def extend(length, going, live, finished, states):
        """One step: `length` ids are read, one is added."""
        outputs, attention, new_states = step(tf.reshape(live.newest, [-1]), states)
        tf.nest.assert_same_structure(states, new_states)
        outputs = _output("log-probabilities", "vocabulary_size", outputs, vocabulary_size)
        if not (beta or keep_attention):
            attention = tf.zeros([batch_size, beam_size, 0])
        elif attention is None:
            raise ValueError(
                "step returns no attention: coverage_penalty must be 0 and keep_attention False"
            )
        else:
            attention = _output("attention", "the width of source_mask", attention, mask.shape[1])
            attention = tf.reshape(attention, [batch_size, beam_size, num_sources])
        coverage = live.coverage + attention
        here = tf.range(longest) == length
        maps = tf.where(here[:, None], attention[:, :, None, :num_kept], live.attention)

        # The best of each hypothesis, then the best of all: `[B, M * branches]`.
        values, tokens = tf.math.top_k(_no_nan(outputs), branches)
        flat = [batch_size, beam_size * branches]
        totals = live.log_probabilities[:, :, None] + tf.reshape(
            values, [batch_size, beam_size, branches]
        )
        totals, tokens = tf.reshape(_no_nan(totals), flat), tf.reshape(tokens, flat)
        ends = tokens == end_id

        # Those that end.
        best, order = tf.math.top_k(totals, beam_size)
        parents = order // branches
        scores = score(best, length + 1, _pick(coverage, parents))
        scores = tf.where(_pick(ends, order) & going[:, None], scores, NEVER)
        top_scores, order = tf.math.top_k(tf.concat([finished.scores, scores], axis=1), num_best)
        sources = tf.concat(
            [tf.zeros_like(finished.lengths) + tf.range(num_best), num_best + parents], axis=1
        )
        sources = _pick(sources, order)
        finished = Hypotheses(
            ids=_pick(tf.concat([finished.ids, live.ids], axis=1), sources),
            lengths=_pick(
                tf.concat([finished.lengths, tf.fill(tf.shape(parents), length)], axis=1), order
            ),
            scores=top_scores,
            log_probabilities=_pick(tf.concat([finished.log_probabilities, best], axis=1), order),
            attention=_pick(tf.concat([finished.attention, maps], axis=1), sources),
        )

        # Those that go on. Those of a sentence that has stopped stay as they are.
        best, order = tf.math.top_k(tf.where(ends, NEVER, totals), beam_size)
        parents = tf.where(going[:, None], order // branches, tf.range(beam_size))
        newest = tf.where(going[:, None], _pick(tokens, order), end_id)
        written = tf.where(here, newest[:, :, None], _pick(live.ids, parents))
        rows = tf.range(batch_size)[:, None] * beam_size + parents
        live = _Live(
            newest=newest,
            ids=tf.where(going[:, None, None], written, live.ids),
            log_probabilities=tf.where(going[:, None], best, live.log_probabilities),
            coverage=tf.where(going[:, None, None], _pick(coverage, parents), live.coverage),
            attention=tf.where(going[:, None, None, None], _pick(maps, parents), live.attention),
        )
        states = tf.nest.map_structure(
            lambda new: tf.gather(new, tf.reshape(rows, [-1])), new_states
        )

        can_win = best_possible(best[:, 0], limits, alpha) > finished.scores[:, -1]
        going &= can_win & (length + 1 < limits)
        return length + 1, going, live, finished, states

    def body(*variables):
        return tf.nest.map_structure(
            lambda new, old: tf.ensure_shape(new, old.shape), extend(*variables), variables
        )

    live = _Live(
        newest=tf.fill([batch_size, beam_size], start_id),
        ids=tf.zeros([batch_size, beam_size, longest], tf.int32),
        # One hypothesis to begin with.
        log_probabilities=tf.zeros([batch_size, 1]) + ([0.0] + [NEVER] * (beam_size - 1)),
        coverage=tf.zeros([batch_size, beam_size, num_sources]),
        attention=tf.zeros([batch_size, beam_size, longest, num_kept]),
    )
    finished = Hypotheses(
        ids=tf.zeros([batch_size, num_best, longest], tf.int32),
        lengths=tf.zeros([batch_size, num_best], tf.int32),
        scores=tf.fill([batch_size, num_best], NEVER),
        log_probabilities=tf.fill([batch_size, num_best], NEVER),
        attention=tf.zeros([batch_size, num_best, longest, num_kept]),
    )
    _, _, live, finished, _ = tf.while_loop(
        lambda length, going, *_: tf.reduce_any(going),
        body,
        (tf.constant(0), limits > 0, live, finished, tile(states, beam_size)),
    )

    # Where none has finished: the live ones, cut off.
    scores, order = tf.math.top_k(
        score(live.log_probabilities, limits[:, None], live.coverage), num_best
    )
    exists = scores > NEVER
    cut_off = Hypotheses(
        ids=tf.where(exists[:, :, None], _pick(live.ids, order), 0),
        lengths=tf.where(exists, limits[:, None], 0),
        scores=scores,
        log_probabilities=tf.where(exists, _pick(live.log_probabilities, order), NEVER),
        attention=tf.where(exists[:, :, None, None], _pick(live.attention, order), 0.0),
    )
    none = finished.scores[:, 0] == NEVER
    found = tf.nest.map_structure(
        lambda a, b: tf.where(tf.reshape(none, [-1] + [1] * (a.shape.rank - 1)), a, b),
        cut_off,
        finished,
    )
    return found if keep_attention else found._replace(attention=None)


def tile(tensors, beam_size):
    """Repeats the row of each sentence for its M hypotheses.

    Args:
        tensors: nested structure of tensors with leading axis B.
        beam_size: M, a Python integer.

    Returns:
        The same structure, leading axis N: row b in rows `b * M` to `b * M + M - 1`.
    """
    return tf.nest.map_structure(lambda x: tf.repeat(x, beam_size, axis=0), tensors)


def penalty(length, alpha):
    """`lp` of hypotheses with `length` symbols, the end symbol counted: `((5 + length) / 6)^α`,
    float64."""
    return ((5.0 + tf.cast(length, tf.float64)) / 6.0) ** alpha


def best_possible(log_probability, max_length, alpha):
    """What no continuation of a hypothesis can surpass.

    Args:
        log_probability: `[B]` float32, at most 0, of hypotheses that have not ended.
        max_length: `[B]` int32.
        alpha: at least 0.

    Returns:
        `[B]` float32 scores.
    """
    bound = tf.cast(log_probability, tf.float64) / penalty(max_length, alpha)
    return tf.cast(bound, tf.float32)


def _pick(x, places):
    """`[B, R, ...]`, places `[B, Q]`: the rows of each sentence at its places, `[B, Q, ...]`."""
    return tf.gather(x, places, batch_dims=1)


def _no_nan(x):
    return tf.where(tf.math.is_nan(x), NEVER, x)


def _id(name, value, vocabulary_size):
    if not isinstance(value, numbers.Integral) or not 0 <= value < vocabulary_size:
        raise ValueError(
            f"{name} must be an integer of at least 0 and below vocabulary_size {vocabulary_size},"
            f" got {value!r}"
        )
    return int(value)


def _batch_size(batch_size):
    """A Python integer where it is known, else an int32 tensor."""
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


def _output(what, width_name, x, width):
    """What `step` returns, as float32; a ValueError where it is known not to be `[N, width]`."""
    x = tf.cast(x, tf.float32)
    if not x.shape.is_compatible_with([None, width]):
        raise ValueError(f"{width_name} is {width}, but step returns {what} of shape {x.shape}")
    return x


def _limits(max_length, batch_size):
    """`[B]` int32 from what the caller gave, and its maximum (a Python integer where known)."""
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
