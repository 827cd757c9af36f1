"""The search against a plain one, of one sentence at a time, in Python."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from models.beam_search.searches import END, RandomTranslator


def plain_search(
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
    """What the search has to find: a list of `(score, log P, ids, whether it ended)`, best first.

    All of a step's candidates are sorted, and the search never stops before `limit`.
    """
    mask = translator.mask[sentence]

    def score(total, coverage, length):
        covered = np.clip(coverage[mask], np.float32(1.2e-38), 1).astype("float64")
        penalty = coverage_penalty * np.log(covered).sum() if coverage_penalty else 0
        return np.float32(float(total) / ((5 + length) / 6) ** length_penalty + penalty)

    nothing = np.float32(0)
    live, finished = [(nothing, np.zeros(mask.size, "float32"), (), 0)], []
    for length in range(limit):
        rows = [translator.log_probabilities[sentence, code] for *_, code in live]
        least = -math.inf
        if pruning is not None and live:
            least = max(row.max() for row in rows) - np.float32(pruning)
        candidates = [
            (-(live[rank][0] + value), rank, symbol)
            for rank, row in enumerate(rows)
            for symbol, value in enumerate(row)
            if value > -math.inf and value >= least
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
    found = finished or [
        (score(total, coverage, limit), total, ids, False) for total, coverage, ids, _ in live
    ]
    found = sorted(found, key=lambda each: -each[0])[:num_best]
    if pruning is not None and found:
        found = [each for each in found if each[0] >= found[0][0] - np.float32(pruning)]
    return found


@st.composite
def searches(draw):
    """A translator whose tables have few different values, for many ties, and settings.

    Sums of eighths are exact, in any order.
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
def test_finds_what_a_plain_search_finds(search):
    translator, limits, options = search
    start = min(1, translator.vocabulary - 1)
    found = translator.search(max_length=limits, start_id=start, **options)
    for sentence, limit in enumerate(limits):
        expected = plain_search(translator, sentence, limit, **options)
        for place in range(options["num_best"]):
            score, total, ids = -math.inf, -math.inf, ()
            if place < len(expected):
                score, total, ids, ended = expected[place]
                assert ended == (len(ids) < limit)
            assert found.scores[sentence, place].numpy() == score
            assert found.log_probabilities[sentence, place].numpy() == total
            assert found.lengths[sentence, place].numpy() == len(ids)
            padding = (0,) * (max(limits) - len(ids))
            assert (*found.ids[sentence, place].numpy(),) == ids + padding
