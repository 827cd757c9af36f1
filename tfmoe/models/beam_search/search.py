"""The search: a loop over target steps that keeps the best hypotheses of each sentence."""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.models.beam_search.hypotheses import Candidates, Hypotheses, Live, tile
from tfmoe.models.beam_search.scoring import NEVER, Scoring, no_nan
from tfmoe.models.beam_search.settings import checked_output, checked_sentences


def beam_search(step, states, settings, *, batch_size, max_length, source_mask=None):
    """Searches for the sequences of highest score that start with `start_id` and end with `end_id`.

    Args:
        step: function of `(ids, states)`, ids `[N]` int32, the newest id of each row. Returns
            `(log_probabilities, attention, states)`: `[N, V]` floating point, at most 0; `[N, S]`
            floating point or `None`; states of the same structure and shapes. Row `b * M + m` is
            hypothesis m of sentence b. Each row's result must not depend on other rows. Tensors
            that all hypotheses of a sentence share, such as the encoder's output, should not be
            states, which are copied at every step: `step` should close over them, repeated by
            `tile`.
        states: nested structure of tensors with leading axis B, the states of each sentence before
            the first step.
        settings: `Settings`.
        batch_size: B, a Python integer or a scalar tensor.
        max_length: the most symbols of a hypothesis, the end symbol counted. Integer, or `[B]`
            integers.
        source_mask: `[B, S]` bool, which source positions are real. Needed for `coverage_penalty`
            above 0 and for `keep_attention`; else the attention is not looked at.

    Returns:
        `Hypotheses`.

    Raises:
        ValueError: for an argument out of its range, or an output of `step` of a wrong shape.
        tf.errors.InvalidArgumentError: for a `max_length` below 1 that is known only at run time.

    What is searched: each step's candidates are all continuations of the M live hypotheses by one
    id. They are ranked by `log P` alone: all have the same length, and how much of the source each
    will cover is not known yet.

    What is kept: of the 2M best candidates, those that end with `end_id` are finished, and the K
    with the highest scores are kept. The M best candidates that do not end are the next live
    hypotheses, so a finished hypothesis takes no room from them; they are among the 2M best, since
    each live hypothesis ends in one candidate. Ties: the candidate of the hypothesis with the
    better rank comes first, then the one with the lower id; of two finished hypotheses, the one
    that ended first. Nothing else is pruned unless `Settings.pruning` says so.

    When it stops: a sentence stops when no live hypothesis can exceed its K-th best finished score
    (`Scoring.best_possible`), or at its `max_length`. A sentence in which no hypothesis has ended
    by then returns its live hypotheses, cut off and scored by the same formula.

    With both penalties 0, `beam_size=1` writes what greedy search writes, or a beginning of it: one
    where the end symbol is the second best candidate, and the whole is likelier than what follows.
    With a penalty the search may also go on where the end symbol is the best candidate.

    A log-probability of NaN counts as `-inf`, and a candidate with `-inf` is discarded. A
    hypothesis whose attention is NaN is never returned if the coverage counts.
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

    last = tf.while_loop(lambda length, going, *_: tf.reduce_any(going), body, first)
    return search.found(_State(*last))


class _State(NamedTuple):
    """What a step of the search changes.

    Attributes:
        length: int32 scalar, ids of the live hypotheses.
        going: `[B]` bool, which sentences have not stopped.
        live: `Live`.
        finished: `Hypotheses`, the best that have ended.
        states: of `step`, leading axis N.
    """

    length: tf.Tensor
    going: tf.Tensor
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
            going=sentences.max_length > 0,
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
        """The `_State` after one step, which reads the newest ids and adds one to each."""
        length, going, live, finished, states = state
        settings, sentences = self.settings, self.sentences
        outputs, attention, new_states = self.step(tf.reshape(live.newest, [-1]), states)
        tf.nest.assert_same_structure(states, new_states)
        here = tf.range(sentences.longest) == length
        candidates = self._candidates(live, outputs, attention, here)
        finished = finished.with_ended(live, candidates, length, self.scoring, going)
        live, best, parents = live.continued(candidates, here, settings.end_id, going)
        rows = tf.range(sentences.batch_size)[:, None] * settings.beam_size + parents
        states = tf.nest.map_structure(lambda x: tf.gather(x, tf.reshape(rows, [-1])), new_states)
        bound = self.scoring.best_possible(best, sentences.max_length)
        going &= (bound > finished.scores[:, -1]) & (length + 1 < sentences.max_length)
        if settings.pruning is not None:
            going &= bound >= finished.scores[:, 0] - settings.pruning
        return _State(length + 1, going, live, finished, states)

    def found(self, state):
        """The `Hypotheses` to return."""
        settings = self.settings
        cut_off = state.live.cut_off(settings.num_best, self.sentences.max_length, self.scoring)
        found = state.finished.or_else(cut_off)
        if settings.pruning is not None:
            found = found.only(found.scores >= found.scores[:, :1] - settings.pruning)
        return found if settings.keep_attention else found._replace(attention=None)

    def _candidates(self, live, outputs, attention, here):
        """The best few `Candidates` of each live hypothesis.

        Args:
            live: `Live`.
            outputs, attention: what `step` returned.
            here: `[L]` bool, the target step.
        """
        settings, batch_size = self.settings, self.sentences.batch_size
        vocabulary_size, beam_size = settings.vocabulary_size, settings.beam_size
        outputs = checked_output("log-probabilities", "vocabulary_size", outputs, vocabulary_size)
        attention = self._attention(attention)
        branches = min(2 * beam_size, vocabulary_size)  # all 2M best may be of one hypothesis
        values, tokens = tf.math.top_k(no_nan(outputs), branches)
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
            attention=tf.where(here[:, None], kept, live.attention),
        )

    def _attention(self, attention):
        """What `step` returned as attention, `[B, M, S]`; S is 0 where it is not looked at."""
        settings, sentences = self.settings, self.sentences
        if not settings.reads_attention:
            return tf.zeros([sentences.batch_size, settings.beam_size, 0])
        if attention is None:
            raise ValueError(
                "step returns no attention: coverage_penalty must be 0 and keep_attention False"
            )
        width = sentences.source_mask.shape[1]
        attention = checked_output("attention", "the width of source_mask", attention, width)
        shape = [sentences.batch_size, settings.beam_size, sentences.num_sources]
        return tf.reshape(attention, shape)


def _pruned(values, exists, pruning):
    """Log-probabilities of ids, `-inf` where they are too far below the best of the step.

    Args:
        values: `[B, M, C]` float32, of the ids given the hypotheses.
        exists: `[B, M]` bool, which hypotheses there are.
        pruning: how far below is too far.
    """
    best = tf.reduce_max(tf.where(exists[:, :, None], values, NEVER), axis=[1, 2], keepdims=True)
    return tf.where(values < best - pruning, NEVER, values)
