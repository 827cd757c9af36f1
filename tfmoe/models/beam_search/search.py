"""The search loop over target steps, which keeps the best hypotheses of each sentence."""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.models.beam_search.highest import highest
from tfmoe.models.beam_search.hypotheses import Candidates, Hypotheses, Live, tile
from tfmoe.models.beam_search.scoring import NEVER, Scoring, no_nan
from tfmoe.models.beam_search.settings import checked_output, checked_sentences


def beam_search(step, states, settings, *, batch_size, max_length, source_mask=None):
    """Finds the highest-scoring sequences that start with `start_id` and end with `end_id`.

    Args:
        step: function of `(ids, states)`, where ids `[N]` int32 are the last ids of the rows. It
            returns `(log_probabilities, attention, states)`: `[N, V]` floating point, at most 0;
            `[N, S]` floating point or `None`; states of unchanged structure and shapes. Row
            `b * M + m` is hypothesis m of sentence b. A row's result must not depend on other rows.
            States are copied at every step: tensors that all hypotheses of a sentence share, such
            as the encoder's output, should be closed over by `step` instead, repeated by `tile`.
        states: nested structure of tensors with leading axis B, the states of each sentence before
            the first step.
        settings: `Settings`.
        batch_size: B, a Python integer or a scalar tensor.
        max_length: maximum length of a hypothesis, end symbol included. Integer, or `[B]`
            integers.
        source_mask: `[B, S]` bool, `False` for padding. Required with `coverage_penalty` above 0 or
            `keep_attention`; otherwise attention is ignored.

    Returns:
        `Hypotheses`.

    Raises:
        ValueError: if an argument is out of range, or an output of `step` has a wrong shape.
        tf.errors.InvalidArgumentError: if `max_length` is known only at run time and below 1.

    Candidates: the candidates of a step are all continuations of the M live hypotheses by one id.
    They are ranked by `log P` alone, because all have the same length, and their final coverage of
    the source is not known yet.

    Selection: of the 2M best candidates, those that end with `end_id` are finished, and the K
    finished hypotheses with the highest scores are kept. The M best candidates that do not end are
    the next live hypotheses, so finished hypotheses do not reduce the beam. All M are among the 2M
    best, since each live hypothesis has only one candidate that ends. Ties: the candidate of the
    better-ranked hypothesis comes first, then the candidate with the lower id; of two finished
    hypotheses, the one that ended first. Nothing else is pruned unless `Settings.pruning` is set.

    Stopping: a sentence stops when no live hypothesis can exceed its K-th best finished score
    (`Scoring.best_possible`), or at its `max_length`. If none of its hypotheses has ended by then,
    its live hypotheses are returned, truncated and scored by the same formula.

    With both penalties 0, `beam_size=1` returns the output of greedy search or a prefix of it: a
    prefix where the end symbol was the second best candidate, if it is likelier than the
    continuation. With a penalty, the search may also continue past a step where the end symbol is
    the best candidate.

    A log-probability of NaN is treated as `-inf`, and candidates with `-inf` are discarded. With
    `coverage_penalty` above 0, a hypothesis whose attention is NaN is never returned.
    """
    sentences = checked_sentences(settings, states, batch_size, max_length, source_mask)
    search = _Search(step, settings, sentences)
    first = search.first(states)

    def body(*variables):
        return tf.nest.map_structure(
            lambda new, old: tf.ensure_shape(new, old.shape),
            search.advance(_State(*variables)),
            _State(*variables),
        )

    last = tf.while_loop(lambda length, active, *_: tf.reduce_any(active), body, first)
    return search.result(_State(*last))


class _State(NamedTuple):
    """The loop variables of the search.

    Attributes:
        length: int32 scalar, number of ids of each live hypothesis.
        active: `[B]` bool, `False` for sentences that have stopped.
        live: `Live`.
        finished: `Hypotheses`, the best finished ones.
        states: states of `step`, leading axis N.
    """

    length: tf.Tensor
    active: tf.Tensor
    live: Live
    finished: Hypotheses
    states: object


class _Search:
    """One search.

    Args:
        step: as for `beam_search`.
        settings: `Settings`.
        sentences: `Sentences`.
    """

    def __init__(self, step, settings, sentences):
        self.step, self.settings, self.sentences = step, settings, sentences
        self.num_kept = sentences.num_sources if settings.keep_attention else 0
        self.scoring = Scoring(
            settings.length_penalty, settings.coverage_penalty, sentences.source_mask
        )

    def first(self, states):
        """The `_State` before the first step."""
        settings, sentences = self.settings, self.sentences
        batch_size, longest, num_kept = sentences.batch_size, sentences.longest, self.num_kept
        return _State(
            length=tf.constant(0),
            active=sentences.max_length > 0,
            live=Live.first(
                settings.start_id,
                batch_size,
                settings.beam_size,
                longest,
                sentences.num_sources,
                num_kept,
            ),
            finished=Hypotheses.none(batch_size, settings.num_best, longest, num_kept),
            states=tile(states, settings.beam_size),
        )

    def advance(self, state):
        """The `_State` after one step, which appends one id to each live hypothesis."""
        length, active, live, finished, states = state
        settings, sentences = self.settings, self.sentences
        outputs, attention, new_states = self.step(tf.reshape(live.last_ids, [-1]), states)
        tf.nest.assert_same_structure(states, new_states)
        at_step = tf.range(sentences.longest) == length
        candidates = self._candidates(live, outputs, attention, at_step)
        finished = finished.with_ended(live, candidates, length, self.scoring, active)
        live, best, parents = live.extend(candidates, at_step, settings.end_id, active)
        rows = tf.range(sentences.batch_size)[:, None] * settings.beam_size + parents
        states = tf.nest.map_structure(lambda x: tf.gather(x, tf.reshape(rows, [-1])), new_states)
        bound = self.scoring.best_possible(best, sentences.max_length)
        active &= (bound > finished.scores[:, -1]) & (length + 1 < sentences.max_length)
        if settings.pruning is not None:
            active &= bound >= finished.scores[:, 0] - settings.pruning
        return _State(length + 1, active, live, finished, states)

    def result(self, state):
        """The `Hypotheses` to return."""
        settings = self.settings
        truncated = state.live.truncated(settings.num_best, self.sentences.max_length, self.scoring)
        result = state.finished.or_else(truncated)
        if settings.pruning is not None:
            result = result.only(result.scores >= result.scores[:, :1] - settings.pruning)
        return result if settings.keep_attention else result._replace(attention=None)

    def _candidates(self, live, outputs, attention, at_step):
        """The best `Candidates` of each live hypothesis.

        Args:
            live: `Live`.
            outputs, attention: the log-probabilities and attention that `step` returned.
            at_step: `[L]` bool, one-hot index of the target step.
        """
        settings, batch_size = self.settings, self.sentences.batch_size
        vocabulary_size, beam_size = settings.vocabulary_size, settings.beam_size
        outputs = checked_output("log-probabilities", "vocabulary_size", outputs, vocabulary_size)
        attention = self._attention(attention)
        # The 2M best candidates may all continue the same hypothesis.
        branches = min(2 * beam_size, vocabulary_size)
        values, tokens = highest(no_nan(outputs), branches)
        values = tf.reshape(values, [batch_size, beam_size, branches])
        if settings.pruning is not None:
            values = _pruned(values, live.log_probabilities > NEVER, settings.pruning)
        totals = no_nan(live.log_probabilities[:, :, None] + values)
        tokens = tf.reshape(tokens, [batch_size, beam_size * branches])
        kept = attention[:, :, None, : self.num_kept]
        return Candidates(
            log_probabilities=tf.reshape(totals, [batch_size, beam_size * branches]),
            tokens=tokens,
            ends=tokens == settings.end_id,
            branches=branches,
            coverage=live.coverage + attention,
            attention=tf.where(at_step[:, None], kept, live.attention),
        )

    def _attention(self, attention):
        """The attention returned by `step` as `[B, M, S]`; S is 0 if it is not used."""
        settings, sentences = self.settings, self.sentences
        if not settings.reads_attention:
            return tf.zeros([sentences.batch_size, settings.beam_size, 0])
        if attention is None:
            raise ValueError(
                "step returned no attention: coverage_penalty must be 0 and keep_attention False"
            )
        width = sentences.source_mask.shape[1]
        attention = checked_output("attention", "the width of source_mask", attention, width)
        shape = [sentences.batch_size, settings.beam_size, sentences.num_sources]
        return tf.reshape(attention, shape)


def _pruned(values, exists, pruning):
    """Replaces log-probabilities by `-inf` if they are too far below the best of the step.

    Args:
        values: `[B, M, C]` float32, log-probabilities of ids given their hypotheses.
        exists: `[B, M]` bool, `False` for missing hypotheses.
        pruning: maximum distance from the best.
    """
    best = tf.reduce_max(tf.where(exists[:, :, None], values, NEVER), axis=[1, 2], keepdims=True)
    return tf.where(values < best - pruning, NEVER, values)
