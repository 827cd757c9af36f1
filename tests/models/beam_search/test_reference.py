"""The search against a reference in plain Python that searches one sentence at a time."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from models.beam_search.searches import END, RandomTranslator


def reference_search(
    translator,
    sentence,
    limit,
    *,
    beam_size,
    num_best,
    length_penalty,
    coverage_penalty,
    pruning,
):
    """The expected hypotheses: a list of `(score, log P, ids, whether it ended)`, best first.

    This search sorts all candidates of a step and never stops before `limit`.
    """
    mask = translator.mask[sentence]

    def score(total, coverage, length):
        covered = np.clip(coverage[mask], np.float32(1.2e-38), 1).astype("float64")
        penalty = coverage_penalty * np.log(covered).sum() if coverage_penalty else 0
        return np.float32(float(total) / ((5 + length) / 6) ** length_penalty + penalty)

    live, finished = [(np.float32(0), np.zeros(mask.size, "float32"), (), 0)], []
    for length in range(limit):
        rows = [translator.log_probabilities[sentence, code] for *_, code in live]
        threshold = -math.inf
        if pruning is not None and live:
            threshold = max(row.max() for row in rows) - np.float32(pruning)
        candidates = [
            (-(live[rank][0] + value), rank, symbol)
            for rank, row in enumerate(rows)
            for symbol, value in enumerate(row)
            if value > -math.inf and value >= threshold
        ]
        old, live = live, []
        for minus_total, rank, symbol in sorted(candidates)[: 2 * beam_size]:
            _, coverage, ids, code = old[rank]
            coverage = coverage + translator.attention[sentence, code]
            if symbol == END:
                scored = score(-minus_total, coverage, length + 1)
                finished.append((scored, -minus_total, ids, True))
            elif len(live) < beam_size:
                code = code * translator.vocabulary + symbol + 1
                live.append((-minus_total, coverage, (*ids, symbol), code))
    hypotheses = finished or [
        (score(total, coverage, limit), total, ids, False) for total, coverage, ids, _ in live
    ]
    hypotheses = sorted(hypotheses, key=lambda hypothesis: -hypothesis[0])[:num_best]
    if pruning is not None and hypotheses:
        lowest = hypotheses[0][0] - np.float32(pruning)
        hypotheses = [hypothesis for hypothesis in hypotheses if hypothesis[0] >= lowest]
    return hypotheses


@st.composite
def searches(draw):
    """A translator and settings of a search. The translator's tables have few distinct values, for
    many ties, and these are multiples of 1/8, whose sums are exact in any order.
    """
    vocabulary, length = draw(st.sampled_from([(1, 3), (2, 5), (3, 4), (4, 3), (5, 3), (7, 2)]))
    translator = RandomTranslator(3, vocabulary, length, sources=2)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    lowest = draw(st.sampled_from([1, 4, 20, 60]))
    values = -rng.integers(0, lowest, translator.log_probabilities.shape, endpoint=True) / 8
    values[rng.random(values.shape) < draw(st.sampled_from([0, 0, 0.2, 0.7]))] = -math.inf
    attention = rng.integers(0, 4, translator.attention.shape, endpoint=True) / 8
    translator.log_probabilities = values.astype("float32")
    translator.attention = attention.astype("float32")
    beam_size = draw(st.integers(1, 5))
    return (
        translator,
        rng.integers(1, length, 3, endpoint=True),
        {
            "beam_size": beam_size,
            "num_best": draw(st.integers(1, beam_size)),
            "length_penalty": draw(st.sampled_from([0, 0.2, 1, 2.5])),
            "coverage_penalty": draw(st.sampled_from([0, 0.2, 1])),
            "pruning": draw(st.sampled_from([None, None, 0.125, 1, 3])),
        },
    )


@settings(max_examples=60, deadline=None)
@given(searches())
def test_equals_the_reference_search(search):
    translator, limits, options = search
    start = min(1, translator.vocabulary - 1)
    result = translator.search(max_length=limits, start_id=start, **options)
    for sentence, limit in enumerate(limits):
        expected = reference_search(translator, sentence, limit, **options)
        for rank in range(options["num_best"]):
            score, total, ids = -math.inf, -math.inf, ()
            if rank < len(expected):
                score, total, ids, ended = expected[rank]
                assert ended == (len(ids) < limit)
            assert result.scores[sentence, rank].numpy() == score
            assert result.log_probabilities[sentence, rank].numpy() == total
            assert result.lengths[sentence, rank].numpy() == len(ids)
            padding = (0,) * (max(limits) - len(ids))
            assert (*result.ids[sentence, rank].numpy(),) == ids + padding
