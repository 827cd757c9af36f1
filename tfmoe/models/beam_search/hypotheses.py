"""The hypotheses of a search: those that have ended, those that live, and the candidates for the
next step."""

from typing import NamedTuple

import tensorflow as tf

from tfmoe.models.beam_search.scoring import NEVER


class Hypotheses(NamedTuple):
    """The best hypotheses of each sentence, best first.

    A sentence with fewer than K hypotheses has empty entries at the end: both scores are `-inf`,
    the length is 0.

    Attributes:
        ids: `[B, K, L]` int32, without start and end symbol, padded at the end with 0. L is the
            largest `max_length`.
        lengths: `[B, K]` int32, the number of ids of each hypothesis. It is the sentence's
            `max_length` where the hypothesis was cut off, and less where it ended.
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

    @classmethod
    def none(cls, batch_size, num_best, longest, num_kept):
        """K empty entries for each sentence; `num_kept` is S, or 0 for no attention."""
        return cls(
            ids=tf.zeros([batch_size, num_best, longest], tf.int32),
            lengths=tf.zeros([batch_size, num_best], tf.int32),
            scores=tf.fill([batch_size, num_best], NEVER),
            log_probabilities=tf.fill([batch_size, num_best], NEVER),
            attention=tf.zeros([batch_size, num_best, longest, num_kept]),
        )

    def with_ended(self, live, candidates, length, scoring, going):
        """The K best of these and of those that end among the 2M best candidates.

        Args:
            live: `Live`, which the candidates continue.
            candidates: `Candidates`.
            length: int32 scalar, ids of a live hypothesis.
            scoring: `Scoring`.
            going: `[B]` bool. A sentence that has stopped keeps its hypotheses.
        """
        num_best, num_candidates = self.scores.shape[1], candidates.tokens.shape[1]
        num_taken = min(2 * live.newest.shape[1], num_candidates)
        best, order = tf.math.top_k(candidates.log_probabilities, num_taken)
        parents = candidates.parents(order)
        scores = scoring.scores(best, length + 1, pick(candidates.coverage, parents))
        ended = pick(candidates.ends, order) & going[:, None]
        scores = tf.concat([self.scores, tf.where(ended, scores, NEVER)], axis=1)
        top_scores, order = tf.math.top_k(scores, num_best)
        # Rows 0 to K - 1 are those of `self`, the others those of the live hypotheses.
        rows = tf.zeros_like(self.lengths) + tf.range(num_best)
        rows = pick(tf.concat([rows, num_best + parents], axis=1), order)

        def from_rows(own, of_live):
            return pick(tf.concat([own, of_live], axis=1), rows)

        def in_order(own, of_candidates):
            return pick(tf.concat([own, of_candidates], axis=1), order)

        return Hypotheses(
            ids=from_rows(self.ids, live.ids),
            lengths=in_order(self.lengths, tf.fill(tf.shape(parents), length)),
            scores=top_scores,
            log_probabilities=in_order(self.log_probabilities, best),
            attention=from_rows(self.attention, candidates.attention),
        )

    def only(self, exists):
        """These where `exists`, `[B, K]` bool, holds, and empty entries elsewhere."""
        return Hypotheses(
            ids=tf.where(exists[:, :, None], self.ids, 0),
            lengths=tf.where(exists, self.lengths, 0),
            scores=tf.where(exists, self.scores, NEVER),
            log_probabilities=tf.where(exists, self.log_probabilities, NEVER),
            attention=tf.where(exists[:, :, None, None], self.attention, 0.0),
        )

    def or_else(self, others):
        """These, and in sentences that have none the `Hypotheses` of `others`."""
        none = self.scores[:, 0] == NEVER
        return tf.nest.map_structure(lambda own, other: choose(none, other, own), self, others)


class Live(NamedTuple):
    """Hypotheses that have not ended. All have the same length.

    Attributes:
        newest: `[B, M]` int32, the id that `step` reads next.
        ids: `[B, M, L]` int32.
        log_probabilities: `[B, M]` float32, `-inf` where there is no hypothesis.
        coverage: `[B, M, S]` float32, the sum of the attention so far. S is 0 where the attention
            is not looked at.
        attention: `[B, M, L, S]` float32. S is 0 unless asked for.
    """

    newest: tf.Tensor
    ids: tf.Tensor
    log_probabilities: tf.Tensor
    coverage: tf.Tensor
    attention: tf.Tensor

    @classmethod
    def first(cls, start_id, batch_size, beam_size, longest, num_sources, num_kept):
        """One hypothesis for each sentence, which has read nothing."""
        return cls(
            newest=tf.fill([batch_size, beam_size], start_id),
            ids=tf.zeros([batch_size, beam_size, longest], tf.int32),
            log_probabilities=tf.zeros([batch_size, 1]) + ([0.0] + [NEVER] * (beam_size - 1)),
            coverage=tf.zeros([batch_size, beam_size, num_sources]),
            attention=tf.zeros([batch_size, beam_size, longest, num_kept]),
        )

    def continued(self, candidates, here, end_id, going):
        """The M best candidates that do not end.

        Args:
            candidates: `Candidates`.
            here: `[L]` bool, the target step at which they stand.
            end_id: what `step` reads where a sentence has stopped.
            going: `[B]` bool. A sentence that has stopped keeps its hypotheses.

        Returns:
            `Live`; `[B]` float32, the best log-probability of each sentence, also of one that has
            stopped; `[B, M]` int32, the hypothesis of `self` that each one continues.
        """
        beam_size = self.newest.shape[1]
        unended = tf.where(candidates.ends, NEVER, candidates.log_probabilities)
        best, order = tf.math.top_k(unended, beam_size)
        parents = tf.where(going[:, None], candidates.parents(order), tf.range(beam_size))
        newest = tf.where(going[:, None], pick(candidates.tokens, order), end_id)
        ids = tf.where(here, newest[:, :, None], pick(self.ids, parents))
        live = Live(
            newest=newest,
            ids=choose(going, ids, self.ids),
            log_probabilities=choose(going, best, self.log_probabilities),
            coverage=choose(going, pick(candidates.coverage, parents), self.coverage),
            attention=choose(going, pick(candidates.attention, parents), self.attention),
        )
        return live, best[:, 0], parents

    def cut_off(self, num_best, limits, scoring):
        """The K best as `Hypotheses` that have their `max_length`.

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
    """Continuations of the live hypotheses by one id, each hypothesis with as many as any other.

    Attributes:
        log_probabilities: `[B, C]` float32, `-inf` where there is no candidate.
        tokens: `[B, C]` int32, the ids.
        ends: `[B, C]` bool, whether the id is the end symbol.
        branches: Python integer, candidates of each live hypothesis.
        coverage: `[B, M, S]` float32, of each live hypothesis, with this step's attention.
        attention: `[B, M, L, S]` float32, likewise.
    """

    log_probabilities: tf.Tensor
    tokens: tf.Tensor
    ends: tf.Tensor
    branches: int
    coverage: tf.Tensor
    attention: tf.Tensor

    def parents(self, order):
        """The live hypotheses that candidates continue; int32, like `order`."""
        return order // self.branches


def tile(tensors, beam_size):
    """Repeats the row of each sentence for its M hypotheses.

    Args:
        tensors: nested structure of tensors with leading axis B.
        beam_size: M, a Python integer.

    Returns:
        The same structure, leading axis N: row b in rows `b * M` to `b * M + M - 1`.
    """
    return tf.nest.map_structure(lambda x: tf.repeat(x, beam_size, axis=0), tensors)


def pick(x, indices):
    """`[B, R, ...]`, indices `[B, Q]`: those rows of each sentence, `[B, Q, ...]`."""
    return tf.gather(x, indices, batch_dims=1)


def choose(condition, x, y):
    """`x` in the sentences where `condition`, `[B]` bool, holds, else `y`; both `[B, ...]`."""
    return tf.where(tf.reshape(condition, [-1] + [1] * (x.shape.rank - 1)), x, y)
