import pytest

from tfmoe.analysis.traffic import traffic, traffic_of
from tfmoe.config import build_model, load_config
from tfmoe.gating import Batchwise, NoisyTopK
from tfmoe.layers import AttentionLSTM, MoE, MoELSTM, ProjectedLSTM
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks


def test_flat_by_hand():
    moe = MoE(8, 5, gate=NoisyTopK(k=2))
    # Each of 100 positions on 4 devices goes to 2 of 8 experts: batches of 2·100·4/8. Sent and
    # returned, forward and backward: 4·2·100 vectors of 3 float32, 3/4 of them to other devices.
    assert traffic_of(moe, 3, tokens=100, devices=4) == {
        "experts_per_device": 2,
        "expert_batch": 100.0,
        "bytes_sent": 4 * 2 * 100 * 3 * 4 * 3 // 4,
        "compute_to_communication": 5.0,
        # Forward 2·100 rows of 2·3·5, backward twice as many: 18000 multiply-adds.
        "multiply_adds_per_byte_sent": 18_000 / 7_200,
    }


def test_hierarchical_mixture_sends_once_per_group():
    moe = MoE(12, 5, groups=3, gate=NoisyTopK(k=2))
    counts = traffic_of(moe, 3, tokens=100, devices=3)
    # 2 groups per position, and 2 experts in each.
    assert counts["bytes_sent"] == 4 * 2 * 100 * 3 * 4 * 2 // 3
    assert counts["expert_batch"] == 4 * 100 * 3 / 12
    assert counts["experts_per_device"] == 4
    assert counts["compute_to_communication"] == 5.0
    assert counts["multiply_adds_per_byte_sent"] == 3 * 4 * 100 * 30 / 6_400


def test_divided_groups_send_once_per_expert():
    moe = MoE(12, 5, groups=3, gate=NoisyTopK(k=2))
    counts = traffic_of(moe, 3, tokens=100, devices=4)
    assert counts["bytes_sent"] == 4 * 4 * 100 * 3 * 4 * 3 // 4
    assert counts["experts_per_device"] == 3


@pytest.mark.parametrize(("tokens", "devices", "sent"), [(1, 2, 48), (1, 7, 83), (7, 1, 0)])
def test_bytes_are_rounded_up(tokens, devices, sent):
    # 96 bytes per position: 1/2 is 48, 6/7 is 82.3.
    moe = MoE(8, 5, gate=NoisyTopK(k=2))
    assert traffic_of(moe, 3, tokens, devices)["bytes_sent"] == sent


def test_nothing_is_sent_on_one_device():
    counts = traffic_of(MoE(8, 5, gate=NoisyTopK(k=2)), 3, tokens=10)
    assert (counts["bytes_sent"], counts["multiply_adds_per_byte_sent"]) == (0, None)


def test_bfloat16_halves_the_traffic():
    moe = MoE(8, 5, gate=NoisyTopK(k=2), dtype="mixed_bfloat16")
    assert traffic_of(moe, 3, tokens=100, devices=4)["bytes_sent"] == 3_600


def test_deeper_experts_compute_more_per_number():
    # 3·5 + 5·5 + 5·3 multiply-adds for 3 numbers in and 3 out.
    counts = traffic_of(MoE(8, 5, depth=2, gate=NoisyTopK(k=2)), 3, tokens=1)
    assert counts["compute_to_communication"] == 55 / 6


def test_other_layers_are_not_listed():
    lstm = ProjectedLSTM(4, return_sequences=True, name="lstm")
    moe = MoE(8, 5, name="moe")
    model = LanguageModel(11, 4, residual_blocks([lstm, moe]))
    assert list(traffic(model, 10)) == ["moe"]


def test_mixtures_of_a_translation_model_process_half_the_positions():
    encoder = [MoE(8, 5, gate=Batchwise(k=2), name="source")]
    decoder = [
        AttentionLSTM(4),
        MoE(12, 5, groups=4, gate=Batchwise(k=2), name="target"),
    ]
    model = TranslationModel(11, 4, residual_blocks(encoder), residual_blocks(decoder))
    counts = traffic(model, 100, devices=4)
    assert list(counts) == ["source", "target"]
    # 50 positions: 2 of 8 experts, then 2 groups with 2 of 3 experts in each.
    assert counts["source"]["expert_batch"] == 2 * 50 * 4 / 8
    assert counts["target"]["expert_batch"] == 4 * 50 * 4 / 12
    for name in counts:
        assert counts[name]["bytes_sent"] == 4 * 2 * 50 * 4 * 4 * 3 // 4


@pytest.mark.parametrize("name", ["lm1b/moe-256", "news100b/moe-131072-h"])
def test_the_papers_ratio_is_the_hidden_size(name):
    ((_, counts),) = traffic(build_model(load_config(name)), 1000, devices=128).items()
    assert counts["compute_to_communication"] == 1024


def test_recurrent_mixture():
    """D = 3, U = 5: rows of 8 and results of 20 numbers; or rows of 3 if the experts see x_t."""
    gate = NoisyTopK(k=2)
    counts = traffic_of(MoELSTM(8, 5, gate=gate), 3, tokens=100, devices=4)
    # 8 matrices 8 × 20 and their gradients, float32, three quarters to other devices.
    assert counts["bytes_sent"] == 2 * 8 * 8 * 20 * 4 * 3 / 4
    assert counts["compute_to_communication"] == 8 * 20 / 28
    at_once = MoELSTM(8, 5, gate=gate, mixture_of="input", gate_from="input")
    counts = traffic_of(at_once, 3, tokens=100, devices=4)
    # 2 experts, 100 positions, 23 numbers, and their gradients.
    assert counts["bytes_sent"] == 2 * 2 * 100 * 23 * 4 * 3 / 4
    assert counts["compute_to_communication"] == 3 * 20 / 23
