"""Updates of stacks at once and in blocks."""

import pytest

from tfmoe.optimizers import factoring


@pytest.fixture(params=[False, True], ids=["at once", "in blocks"])
def blocks(request, monkeypatch):
    """Updates stacks at once, or one matrix at a time."""
    if request.param:
        monkeypatch.setattr(factoring, "BLOCK_BYTES", {"CPU": 1, "GPU": 1})
    return request.param
