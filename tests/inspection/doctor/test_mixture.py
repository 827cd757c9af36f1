import pytest

from tfmoe.gating import (
    Batchwise,
    BiasBalanced,
    ExpertChoice,
    ExpertThreshold,
    GShard,
    Hierarchical,
    NoisyTopK,
    Softmax,
    Switch,
)
from tfmoe.inspection.doctor import mixture_of
from tfmoe.inspection.doctor.mixture import Limit
from tfmoe.layers import MoE

BALANCED = {"importance_weight": 0.1, "load_weight": 0.2}


@pytest.mark.parametrize(
    ("options", "selected", "weights", "noise"),
    [
        ({"gate": NoisyTopK(k=2, **BALANCED)}, 2, BALANCED, True),
        ({"gate": NoisyTopK(2, 0, noise=False)}, 2, dict.fromkeys(BALANCED, 0.0), False),
        (
            {"gate": Softmax(importance_weight=0.3, z_loss_weight=0.1)},
            8, {"importance_weight": 0.3}, None,
        ),
        ({"gate": Batchwise(k=3)}, 3, {"importance_weight": 0.0}, None),
        (
            {"gate": Switch(balance_weight=0.5)}, 1,
            {"balance_weight": 0.5, "importance_weight": 0.0, "load_weight": 0.0}, None,
        ),
        ({"groups": 4, "gate": NoisyTopK(k=2, **BALANCED)}, 4, BALANCED, True),
        (
            {"groups": 4, "gate": Switch(balance_weight=0.5)}, 1,
            {"importance_weight": 0.0, "load_weight": 0.0, "balance_weight": 0.5}, None,
        ),
        (
            {"gate": Hierarchical(4, Switch(), NoisyTopK(k=2), load_weight=0.7)}, 2,
            {"importance_weight": 0.1, "load_weight": 0.7, "primary.balance_weight": 0.01}, None,
        ),
        ({"gate": BiasBalanced(k=2, sequence_weight=0.1)}, 2, {}, None),
    ],
)  # fmt: skip
def test_of_layers(options, selected, weights, noise):
    """Also that each argument is one that the layer's configuration has."""
    layer = MoE(8, 3, **options)
    mixture = mixture_of("moe", layer, "model.blocks[1].")
    assert (mixture.num_experts, mixture.selected, mixture.noise) == (8, selected, noise)
    assert dict(mixture.weights) == {f"gate.{name}": value for name, value in weights.items()}
    for argument, value in mixture.weights:
        *path, name = argument.split(".")
        config = layer.get_config()
        for part in path:
            config = config[part]["config"]
        assert config[name] == value
        assert mixture.setting(argument) == (f"model.blocks[1].{argument}", value)


def test_gates_without_balancing_losses():
    bias, average, batch = (
        mixture_of("moe", MoE(8, 3, gate=gate))
        for gate in (BiasBalanced(k=2, bias_step=0.01), ExpertThreshold(k=2), ExpertChoice())
    )
    assert bias.setting("gate.bias_step") == ("gate.bias_step", 0.01)
    assert average.setting("gate.ema") == ("gate.ema", 0.99)
    assert [each.depends_on_batch for each in (bias, average, batch)] == [False, False, True]


def test_sizes():
    layer = MoE(8, 3, gate=NoisyTopK(k=2), capacity_factor=1.5)
    mixture = mixture_of("moe", layer, tokens=100)
    assert mixture.limits == (Limit("capacity_factor", 1.5, 1.5),)
    assert (mixture.expert_batch, mixture.chance) == (25, 1 / 25)  # 2 · 100 / 8
    assert mixture.setting("capacity_factor") == ("capacity_factor", 1.5)
    assert mixture_of("moe", layer).expert_batch is None
    assert mixture_of("moe", MoE(8, 3, gate=Softmax()), tokens=100).chance == 0


def test_expert_choice_depends_on_the_batch():
    assert not mixture_of("moe", MoE(8, 3, gate=Batchwise(k=2))).depends_on_batch
    assert mixture_of("moe", MoE(8, 3, gate=ExpertChoice())).depends_on_batch
    assert mixture_of("moe", MoE(8, 3, groups=4, gate=ExpertChoice())).depends_on_batch


SWITCH = Switch(capacity_factor=1.25, evaluation_capacity_factor=2.0)
# 2 experts per token: 1 time the mean load.
GSHARD = GShard(capacity_factor=2.0)


@pytest.mark.parametrize(
    ("options", "tokens", "limits"),
    [
        ({"gate": Switch()}, None, ()),
        (
            {"gate": SWITCH}, None,
            [("gate.capacity_factor", 1.25, 1.25), ("gate.evaluation_capacity_factor", 2.0, 2.0)],
        ),
        ({"gate": GSHARD}, 800, [("gate.capacity_factor", 2.0, 1.0)]),
        # A mean load of 2·4/8 = 1 token, and a capacity of at least 4.
        ({"gate": GSHARD}, 4, [("gate.capacity_factor", 2.0, 4.0, False)]),
        (
            {"gate": GSHARD, "evaluation_capacity_factor": 3.0}, None,
            [("evaluation_capacity_factor", 3.0, 3.0), ("gate.capacity_factor", 2.0, 1.0)],
        ),
        (
            {"gate": SWITCH, "groups": 4}, 4,
            [
                ("gate.capacity_factor", 1.25, 1.25, False),
                ("gate.evaluation_capacity_factor", 2.0, 2.0, False),
            ],
        ),
        (
            {"gate": Hierarchical(4, NoisyTopK(k=2), GSHARD)}, None,
            [("gate.secondary.capacity_factor", 2.0, 1.0, False)],
        ),
        ({"gate": "expert_choice"}, None, ()),  # its capacity drops nothing
    ],
)  # fmt: skip
def test_limits(options, tokens, limits):
    mixture = mixture_of("moe", MoE(8, 3, **options), "model.", tokens)
    assert list(mixture.limits) == [Limit(*limit) for limit in limits]
    for limit in mixture.limits:
        assert mixture.setting(limit.argument) == (f"model.{limit.argument}", limit.factor)
