import pytest

from tfmoe.config import load_config
from tfmoe.tasks.ablation_report import differ_in_experts, report


def summary(**values):
    balance = {"cv_importance": 0.061, "cv_load": 0.052, "max_over_mean_load": 1.143}
    return {
        "num_experts": 4,
        "ops_per_timestep": 61440,
        "parameters": 1_797_216,
        "perplexity": 25.314,
        "perplexity_deviation": None,
        "train": balance,
        "test": {name: 2 * value for name, value in balance.items()},
        "seconds": 54.3,
        "paper": None,
        **values,
    }


def test_report():
    paper = load_config("ablation/importance-0.0-load-0.0").paper.model_dump()
    summaries = {
        "row": summary(paper=paper, perplexity_deviation=0.126),
        "mine": summary(train=dict.fromkeys(summary()["train"])),
    }
    lines = [" ".join(line.split()) for line in report(summaries, seeds=3).splitlines()]
    assert lines == [
        "Test perplexity (mean ± standard deviation over 3 seeds); load balance over the training "
        "batches of the last epoch, as in Table 6",
        "config perplexity paper CV(Importance) paper CV(Load) paper max/mean load paper",
        "row 25.31 ± 0.13 39.8 0.06 3.04 0.05 3.01 1.14 17.80",
        "mine 25.31 - - - - - - -",
        "paper: printed in Table 6, for the paper's models and text",
        "",
        "Load balance over the batches of the test text, at evaluation (without noise)",
        "config CV(Importance) CV(Load) max/mean load experts ops/timestep parameters seconds",
        "row 0.12 0.10 2.29 4 61,440 1,797,216 54",
        "mine 0.12 0.10 2.29 4 61,440 1,797,216 54",
    ]
    one = report({"mine": summary()}, seeds=1)
    assert "(one seed)" in one and "paper" not in one and "±" not in one


@pytest.mark.parametrize(
    ("experts", "ops", "by_experts"),
    [
        ((4, 16, 64), (100, 101, 99), True),
        ((4, 16), (84, 89), True),  # as far apart as the paper's
        ((4, 16), (84, 100), False),
        ((4, 4), (84, 84), False),
        ((0, 4), (84, 84), False),  # one is not a mixture
    ],
)
def test_which_plot(experts, ops, by_experts):
    found = [{"num_experts": n, "ops_per_timestep": c} for n, c in zip(experts, ops, strict=True)]
    assert differ_in_experts(found) is by_experts
