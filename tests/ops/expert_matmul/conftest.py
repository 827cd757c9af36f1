"""Runs tests with both runners of experts."""

import pytest

from tfmoe.ops import expert_runners


@pytest.fixture(params=["unrolled", "looped"])
def both_runners(request, monkeypatch):
    if request.param == "looped":
        monkeypatch.setattr(expert_runners, "UNROLLED_EXPERTS", 0)
