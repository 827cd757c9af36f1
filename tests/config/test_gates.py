"""The sections of gates."""

import pytest

from tfmoe.config.gates import GATE_SECTIONS, WITHOUT_SECTION
from tfmoe.config.sections import construct, section_of
from tfmoe.gating import GATES, Gate, get


class Threshold(Gate):
    """A gate that is not registered."""

    def __init__(self, m, slope=1.0, mode: str | None = None, **kwargs):
        super().__init__(**kwargs)


def test_every_gate_has_a_section():
    assert set(GATE_SECTIONS) | WITHOUT_SECTION == set(GATES)


def test_sections_make_gates():
    for name, section in GATE_SECTIONS.items():
        assert type(get(section().model_dump())) is type(construct(section())) is GATES[name]


def test_fields_follow_the_constructor():
    section = section_of(Threshold, "threshold", base=Gate)
    assert list(section.model_fields) == [
        "name", "m", "slope", "mode",
    ]  # fmt: skip
    settings = section(m=2, mode="soft").model_dump()
    assert settings == {"name": "threshold", "m": 2, "slope": 1.0, "mode": "soft"}


@pytest.mark.parametrize("name", ["batchwise", "softmax"])
def test_retired_load_weight(name):
    """Configs of runs of version 0.1 have `load_weight: 0.0` for every gate."""
    section = GATE_SECTIONS[name]
    assert section(load_weight=0.0) == section()
    with pytest.raises(ValueError, match="load_weight"):
        section(load_weight=0.3)


def test_defaults_of_noisy_top_k():
    section = GATE_SECTIONS["noisy_top_k"]
    assert section().model_dump() == {
        "name": "noisy_top_k", "k": 4, "importance_weight": 0.1, "load_weight": 0.1,
        "noise": True, "noise_floor": 0.0, "seed": None,
        "z_loss_weight": 0.0, "jitter": 0.0, "gate_hidden_units": None,
    }  # fmt: skip


@pytest.mark.parametrize("written", [{}, {"load_weight": None}, {"load_weight": 0.0}])
def test_load_weight_of_noisy_top_k_without_noise(written):
    """`config.yaml` of a run stores the value itself, so that the run resumes with it."""
    assert GATE_SECTIONS["noisy_top_k"](noise=False, **written).load_weight == 0


def test_a_run_with_a_load_weight_and_no_noise():
    with pytest.warns(UserWarning, match="load_weight=0.3 of a gate without noise is read as 0"):
        section = GATE_SECTIONS["noisy_top_k"](noise=False, importance_weight=0.0, load_weight=0.3)
    gate = construct(section)
    assert (gate.importance_weight, gate.load_weight, gate.noise) == (0, 0, False)


def test_weights_of_noisy_top_k_in_an_old_run():
    section = GATE_SECTIONS["noisy_top_k"](importance_weight=0.0, load_weight=0.0)
    assert section.importance_weight == section.load_weight == 0
