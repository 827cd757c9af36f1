"""Finished hypotheses, live hypotheses, and the candidates of a step."""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.models.beam_search.scoring import NEVER


class Hypotheses(NamedTuple):
    """The best hypotheses of each sentence, best first.

    A sentence with fewer than K hypotheses has empty entries at the end, with a score and a
    log-probability of `-inf` and a length of 0.

    Attributes:
        ids: `[B, K, L]` int32, without start and end symbol, padded at the end with 0. L is the
            largest `max_length`.
        lengths: `[B, K]` int32, number of ids. It equals the sentence's `max_length` if the
            hypothesis was truncated, and is smaller if the hypothesis ended.
        scores: `[B, K]` float32 `s(Y, X)`, in descending order.
        log_probabilities: `[B, K]` float32 `log P(Y|X)`, in nats, end symbol included.
        attention: `[B, K, L, S]` float32, the attention weights of the step that produced each id
            and of the step that produced the end symbol, then 0. `None` without `keep_attention`.
    """

    ids: tf.Tensor
    lengths: tf.Tensor
    scores: tf.Tensor
    log_probabilities: tf.Tensor
    attention: tf.Tensor | None = None

    @classmethod
    def none(cls, batch_size, num_best, longest, num_kept):
        """K empty entries for each sentence.

        Args:
            batch_size: B.
            num_best: K.
            longest: L.
            num_kept: S, or 0 without `keep_attention`.
        """
        return cls(
            ids=tf.zeros([batch_size, num_best, longest], tf.int32),
            lengths=tf.zeros([batch_size, num_best], tf.int32),
            scores=tf.fill([batch_size, num_best], NEVER),
            log_probabilities=tf.fill([batch_size, num_best], NEVER),
            attention=tf.zeros([batch_size, num_best, longest, num_kept]),
        )

    def with_ended(self, live, candidates, length, scoring, active):
        """The K best of `self` and of the 2M best candidates that end.

        Args:
            live: the `Live` hypotheses that the candidates continue.
            candidates: `Candidates`.
            length: int32 scalar, number of ids of a live hypothesis.
            scoring: `Scoring`.
            active: `[B]` bool. A sentence that has stopped keeps its hypotheses.
        """
        num_best, num_candidates = self.scores.shape[1], candidates.tokens.shape[1]
        num_considered = min(2 * live.last_ids.shape[1], num_candidates)
        best, order = tf.math.top_k(candidates.log_probabilities, num_considered)
        parents = candidates.parents(order)
        scores = scoring.scores(best, length + 1, pick(candidates.coverage, parents))
        ended = pick(candidates.ends, order) & active[:, None]
        scores = tf.concat([self.scores, tf.where(ended, scores, NEVER)], axis=1)
        top_scores, order = tf.math.top_k(scores, num_best)
        # Rows 0 to K - 1 are hypotheses of `self`, the other rows are live hypotheses.
        rows = tf.zeros_like(self.lengths) + tf.range(num_best)
        rows = pick(tf.concat([rows, num_best + parents], axis=1), order)

        def by_row(finished_values, live_values):
            return pick(tf.concat([finished_values, live_values], axis=1), rows)

        def by_order(finished_values, candidate_values):
            return pick(tf.concat([finished_values, candidate_values], axis=1), order)

        return Hypotheses(
            ids=by_row(self.ids, live.ids),
            lengths=by_order(self.lengths, tf.fill(tf.shape(parents), length)),
            scores=top_scores,
            log_probabilities=by_order(self.log_probabilities, best),
            attention=by_row(self.attention, candidates.attention),
        )

    def only(self, exists):
        """`self` where `exists`, `[B, K]` bool, holds, and empty entries elsewhere."""
        return Hypotheses(
            ids=tf.where(exists[:, :, None], self.ids, 0),
            lengths=tf.where(exists, self.lengths, 0),
            scores=tf.where(exists, self.scores, NEVER),
            log_probabilities=tf.where(exists, self.log_probabilities, NEVER),
            attention=tf.where(exists[:, :, None, None], self.attention, 0.0),
        )

    def or_else(self, others):
        """`self`, with the `Hypotheses` of `others` for sentences that have none."""
        is_empty = self.scores[:, 0] == NEVER
        return tf.nest.map_structure(lambda x, other: choose(is_empty, other, x), self, others)


class Live(NamedTuple):
    """Hypotheses that have not ended. All have the same length.

    Attributes:
        last_ids: `[B, M]` int32, the id that `step` reads next.
        ids: `[B, M, L]` int32.
        log_probabilities: `[B, M]` float32, `-inf` for a missing hypothesis.
        coverage: `[B, M, S]` float32, the sum of the attention weights so far. S is 0 if the
            search does not use attention.
        attention: `[B, M, L, S]` float32. S is 0 without `keep_attention`.
    """

    last_ids: tf.Tensor
    ids: tf.Tensor
    log_probabilities: tf.Tensor
    coverage: tf.Tensor
    attention: tf.Tensor

    @classmethod
    def first(cls, start_id, batch_size, beam_size, longest, num_sources, num_kept):
        """One hypothesis for each sentence, before the first step."""
        return cls(
            last_ids=tf.fill([batch_size, beam_size], start_id),
            ids=tf.zeros([batch_size, beam_size, longest], tf.int32),
            log_probabilities=tf.zeros([batch_size, 1]) + ([0.0] + [NEVER] * (beam_size - 1)),
            coverage=tf.zeros([batch_size, beam_size, num_sources]),
            attention=tf.zeros([batch_size, beam_size, longest, num_kept]),
        )

    def extend(self, candidates, at_step, end_id, active):
        """The M best candidates that do not end.

        Args:
            candidates: `Candidates`.
            at_step: `[L]` bool, one-hot index of the target step.
            end_id: the id that `step` reads for a sentence that has stopped.
            active: `[B]` bool. A sentence that has stopped keeps its hypotheses.

        Returns:
            `Live`; `[B]` float32, the best log-probability of each sentence, computed for stopped
            sentences too; `[B, M]` int32, the hypothesis of `self` that each new one continues.
        """
        beam_size = self.last_ids.shape[1]
        not_ended = tf.where(candidates.ends, NEVER, candidates.log_probabilities)
        best, order = tf.math.top_k(not_ended, beam_size)
        parents = tf.where(active[:, None], candidates.parents(order), tf.range(beam_size))
        last_ids = tf.where(active[:, None], pick(candidates.tokens, order), end_id)
        ids = tf.where(at_step, last_ids[:, :, None], pick(self.ids, parents))
        live = Live(
            last_ids=last_ids,
            ids=choose(active, ids, self.ids),
            log_probabilities=choose(active, best, self.log_probabilities),
            coverage=choose(active, pick(candidates.coverage, parents), self.coverage),
            attention=choose(active, pick(candidates.attention, parents), self.attention),
        )
        return live, best[:, 0], parents

    def truncated(self, num_best, limits, scoring):
        """The K best as `Hypotheses` of maximum length.

        Args:
            num_best: K.
            limits: `[B]` int32 `max_length`.
            scoring: `Scoring`.
        """
        scores = scoring.scores(self.log_probabilities, limits[:, None], self.coverage)
        scores, order = tf.math.top_k(scores, num_best)
        hypotheses = Hypotheses(
            ids=pick(self.ids, order),
            lengths=tf.repeat(limits[:, None], num_best, axis=1),
            scores=scores,
            log_probabilities=pick(self.log_probabilities, order),
            attention=pick(self.attention, order),
        )
        return hypotheses.only(scores > NEVER)


class Candidates(NamedTuple):
    """Continuations of the live hypotheses by one id, equally many for each hypothesis.

    Attributes:
        log_probabilities: `[B, C]` float32, `-inf` for a missing candidate.
        tokens: `[B, C]` int32, the ids.
        ends: `[B, C]` bool, whether the id is the end symbol.
        branches: Python integer, candidates per live hypothesis.
        coverage: `[B, M, S]` float32, coverage of each live hypothesis including this step.
        attention: `[B, M, L, S]` float32, attention of each live hypothesis including this step.
    """

    log_probabilities: tf.Tensor
    tokens: tf.Tensor
    ends: tf.Tensor
    branches: int
    coverage: tf.Tensor
    attention: tf.Tensor

    def parents(self, order):
        """The live hypotheses that candidates continue.

        Args:
            order: int32 indices of candidates, of any shape.

        Returns:
            int32 indices of hypotheses, of the same shape.
        """
        return order // self.branches


def tile(tensors, beam_size):
    """Repeats each sentence's row for its M hypotheses.

    Args:
        tensors: nested structure of tensors with leading axis B.
        beam_size: M, a Python integer.

    Returns:
        The same structure with leading axis N. Rows `b * M` to `b * M + M - 1` are copies of row b.
    """
    return tf.nest.map_structure(lambda x: tf.repeat(x, beam_size, axis=0), tensors)


def pick(x, indices):
    """Gathers rows `indices` `[B, Q]` of each sentence from `x` `[B, R, ...]`: `[B, Q, ...]`."""
    return tf.gather(x, indices, batch_dims=1)


def choose(condition, x, y):
    """`x` for sentences where `condition` `[B]` bool holds, else `y`; both are `[B, ...]`."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1)), x, y)
