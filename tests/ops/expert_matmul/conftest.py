"""Runs tests with the runners of experts."""

import pytest

from tfmoe.ops import batched_rows, copied_weights, expert_runners

# Estimated times with which the loads of the tests are computed by the loop, or partly together.
LOOPED = {"BATCHED": 10**6}
BATCHED = {"BATCHED": 0, "LOOPED": 3, "LOOP_ELEMENTS": 0, "ADDED": 0, "MULTIPLE": 2}


@pytest.fixture(params=["unrolled", "looped", "batched", "copied"])
def all_runners(request, monkeypatch):
    if request.param == "copied":  # by eager code
        return
    monkeypatch.setattr(copied_weights, "ELEMENTS_PER_VISIT", 0)
    if request.param != "unrolled":
        monkeypatch.setattr(expert_runners, "UNROLLED_EXPERTS", 0)
        for name, value in (LOOPED if request.param == "looped" else BATCHED).items():
            monkeypatch.setattr(batched_rows, name, value)
