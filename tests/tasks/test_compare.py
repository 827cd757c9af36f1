"""The shipped comparisons, and the tables of a comparison."""

import pytest

from tfmoe.config import find_comparison, load_comparison, shipped_comparisons
from tfmoe.tasks.compare import check_equal
from tfmoe.tasks.comparison_report import markdown, spread, summary_of, tables


@pytest.mark.parametrize("name", shipped_comparisons())
def test_shipped_comparison_is_of_equal_operations_and_has_a_header(name):
    comparison = load_comparison(name)
    assert len(comparison.configs) > 2 and len(comparison.seeds) == 3
    ops = check_equal(comparison)
    assert max(ops.values()) <= (1 + comparison.tolerance) * min(ops.values())
    header = find_comparison(name).read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"tfmoe compare {name}\n" in header


def test_shipped_gates_differ_in_the_gate_only():
    for name in ("compare/gates", "compare/gates_text"):
        trees = [config.model_dump() for config in load_comparison(name).configs.values()]
        for tree in trees:
            (moe,) = [block for block in tree["model"]["blocks"] if block["name"] == "moe"]
            for key in ("gate", "groups", "hidden_units"):
                del moe[key]
        assert all(tree == trees[0] for tree in trees)


def row(seed, perplexity, **values):
    averaged = {
        f"{part}_{metric}": None
        for part in ("train", "test")
        for metric in (
            "cv_importance", "cv_load", "max_over_mean_load", "selected_per_token", "dropped",
        )
    }  # fmt: skip
    return {
        "seed": seed,
        "num_experts": 4,
        "ops_per_timestep": 16384,
        "parameters": 146803,
        "words_trained": 9000,
        "perplexity": perplexity,
        **averaged,
        "seconds_per_step": 0.2,
        "processor_seconds_per_step": None,
        "seconds": 30.0,
        **values,
    }


def test_tables_by_hand():
    """Mean and sample standard deviation of 2 and 4: 3 and √2. The other system is 1.5 and 1.25
    times the reference with the same seed: 37.5% ± 25%/√2 more. Seed 2 has no reference.
    """
    reference = [row(0, 2.0, test_max_over_mean_load=1.5), row(1, 4.0, test_max_over_mean_load=1.5)]
    other = [row(1, 5.0), row(0, 3.0), row(2, 7.0, train_dropped=0.012)]
    summary = {
        "reference": "A",
        "systems": {"A": summary_of(reference, reference), "B|": summary_of(other, reference)},
    }
    assert summary["systems"]["B|"]["seeds"] == [1, 0, 2]
    use, cost = tables(summary)
    assert use[0][:3] == ["system", "perplexity", "vs A"]
    assert use[1] == ["A", "3.00 ± 1.41", "+0.0%", "-", "1.50", "-", "-", "-", "-"]
    assert use[2] == ["B|", "5.00 ± 2.00", "+37.5% ± 17.7%", "-", "-", "-", "-", "1.2%", "-"]
    assert cost[2] == ["B|", "16,384", "146,803", "9,000", "200", "-", "3"]
    lines = markdown(summary).splitlines()
    assert lines[2:4] == [f"| {' | '.join(use[0])} |", "| --- |" + " ---: |" * 8]
    assert lines[5].startswith("| B\\| | 5.00 ± 2.00 |")


def test_spread_of_one_value_and_of_none():
    assert spread([2.0, None]) == {"mean": 2.0, "deviation": None}
    assert spread([None]) == {"mean": None, "deviation": None}
