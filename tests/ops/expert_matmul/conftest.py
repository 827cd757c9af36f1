"""Both ways of running the experts one after another."""

import pytest

from tfmoe.ops import expert_ways


@pytest.fixture(params=["unrolled", "loop"])
def either_way(request, monkeypatch):
    if request.param == "loop":
        monkeypatch.setattr(expert_ways, "UNROLLED_EXPERTS", 0)
