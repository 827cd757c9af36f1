"""The memory of a device: weights, experts, activations."""

import keras
import numpy as np
import pytest
from analysis.small_models import MODELS, language_model, lstm, translation_model

from tfmoe.analysis.memory import memory_per_device
from tfmoe.analysis.variables import GraphBuild
from tfmoe.config import build_model, load_config
from tfmoe.gating import Batchwise, NoisyTopK, Softmax
from tfmoe.layers import AttentionLSTM, MoE


def test_by_hand():
    model = language_model(lstm(8, 4), MoE(6, 5, gate=NoisyTopK(k=2)))
    # Embedding 44, LSTM 320, gates 2·4·6 = 48, experts 6·2·4·5 = 240, softmax 55: 707 numbers.
    # FactoredAdam: 4 + 5 and 5 + 4 for each of six experts, and two slots for the other 467.
    # A position keeps: LSTM 4 + 7·8 + 4 = 64; gate 4 and 4·2·6, rows 2·2·4, sigmoid 4: 72; hidden
    # 2·5; loss 4 and 11 logits. 64 + 72 + 15 = 151 numbers, and 10 more without recompute.
    assert memory_per_device(model, tokens=10) == {
        "weights": 4 * 707,
        "gradients": 4 * 707,
        "optimizer_slots": 4 * 2 * 707,
        "optimizer_slots_by_optimizer": {
            "adam": 4 * 1414,
            "factored_adam": 4 * (108 + 934),
            "factored_adagrad": 4 * (108 + 467),
        },
        "experts": {
            "weights": 4 * 240,
            "gradients": 4 * 240,
            "optimizer_slots_by_optimizer": {
                "adam": 4 * 480,
                "factored_adam": 4 * 108,
                "factored_adagrad": 4 * 108,
            },
        },
        "activations": 4 * 10 * 161,
        "activations_without_recompute": 4 * 10 * 161,
        "activations_with_recompute": 4 * 10 * 151,
        "total": 4 * (707 + 707 + 1414 + 1610),
    }
    assert not model.built


def test_recompute_setting_and_optimizer_argument():
    moe = MoE(6, 5, gate=NoisyTopK(k=2), recompute=True)
    memory = memory_per_device(language_model(moe), tokens=10, optimizer="factored_adam")
    assert memory["activations"] == memory["activations_with_recompute"]
    assert memory["activations_without_recompute"] - memory["activations"] == 4 * 10 * 10
    assert memory["optimizer_slots"] == memory["optimizer_slots_by_optimizer"]["factored_adam"]
    parts = ("weights", "gradients", "optimizer_slots", "activations")
    assert memory["total"] == sum(memory[part] for part in parts)


@pytest.mark.parametrize(("devices", "experts"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1), (9, 1)])
def test_only_experts_are_sharded(devices, experts):
    model = language_model(MoE(6, 5, use_bias=True, gate=NoisyTopK(k=2)))
    memory = memory_per_device(model, tokens=10, devices=devices)
    # An expert: 2·4·5 and 5 + 4 biases. Replicated: 44 + 55 and the gates' 48.
    assert memory["experts"]["weights"] == 4 * experts * 49
    assert memory["weights"] == 4 * (experts * 49 + 147)
    # Biases are not matrices: two full slots.
    slots = memory["experts"]["optimizer_slots_by_optimizer"]
    assert slots["adam"] == 4 * experts * 98
    assert slots["factored_adam"] == 4 * experts * (18 + 18)
    one = memory_per_device(model, tokens=10)
    assert memory["activations"] == one["activations"]


# With more devices than groups, experts are shared out one by one, and a device has all gates.
SHARES_OF_GROUPS = pytest.mark.parametrize(
    ("devices", "experts", "gates"), [(1, 12, 3), (2, 8, 2), (3, 4, 1), (5, 3, 3)]
)


@SHARES_OF_GROUPS
def test_share_of_a_hierarchical_mixture(devices, experts, gates):
    model = language_model(MoE(12, 5, groups=3, gate=NoisyTopK(k=2)))
    memory = memory_per_device(model, tokens=10, devices=devices)
    # An expert has 40 weights, a gate 2·4·4. Replicated: 99 and the primary gate's 2·4·3.
    assert memory["weights"] == 4 * (40 * experts + 32 * gates + 99 + 24)
    assert memory["experts"]["weights"] == 4 * 40 * experts


@SHARES_OF_GROUPS
def test_thresholds_are_on_the_devices_of_their_gate(devices, experts, gates):
    model = language_model(MoE(12, 5, groups=3, gate=Batchwise(k=2)))
    memory = memory_per_device(model, tokens=10, devices=devices)
    # An expert has 40 weights, a gate 4·4 and 4 thresholds. Replicated: 99, the primary gate's 4·3
    # and its 3 thresholds.
    assert memory["weights"] == 4 * (40 * experts + 20 * gates + 99 + 15)
    assert memory["experts"]["weights"] == 4 * 40 * experts


def test_translation_by_hand():
    moe = MoE(6, 5, gate=Batchwise(k=2))
    model = translation_model([lstm(4), moe], [AttentionLSTM(8, 4, attention_units=3)])
    # LSTM 144, gate 24 and 6 thresholds, experts 240, decoder 4·12·8 + 32 + 32 and (4 + 4 + 1)·3,
    # embedding 44, softmax 55: 988 numbers.
    # A source position keeps: LSTM 4 + 28; gate 4 and 2·6, rows 2·2·4, sigmoid 4; attention
    # 4 + 2·3: 78; hidden 2·5. A target position: 4 + 7·8 + 4, context 4, query 3, weights of 7
    # source steps 2·7, loss 4 and 11 logits: 100.
    memory = memory_per_device(model, tokens=20, steps=7)
    assert memory["weights"] == 4 * 988
    assert memory["activations"] == 4 * 10 * (88 + 100)
    assert memory["activations_with_recompute"] == 4 * 10 * (78 + 100)
    assert memory_per_device(model, tokens=20)["activations"] == 4 * 10 * (88 + 86)
    assert not model.built


def test_dropout_of_a_translation_model():
    plain, dropped = (
        memory_per_device(
            translation_model([lstm(4)], [AttentionLSTM(4), lstm(4)], dropout=dropout), tokens=2
        )["activations"]
        for dropout in (0.0, 0.1)
    )
    # A byte for each of 4 elements: after the embedding and one block of the source, and after the
    # embedding and two blocks of the target.
    assert dropped - plain == 4 * (2 + 3)


def test_dropout_and_sampling():
    plain = memory_per_device(language_model(lstm(4)), tokens=1)["activations"]
    # A byte for each of 4 elements, after the embedding and after the block.
    dropped = memory_per_device(language_model(lstm(4), dropout=0.1), tokens=1)["activations"]
    assert dropped - plain == 8
    # Logits of 3 candidates and the target instead of 11 words, and the target's row of 4.
    sampled = memory_per_device(language_model(lstm(4), num_sampled=3), tokens=1)["activations"]
    assert sampled - plain == 4 * (4 - 11 + 4)


def test_mixed_precision():
    single, mixed = (
        memory_per_device(build_model(load_config("lm1b/moe-32", overrides)), tokens=1)
        for overrides in ([], ["training.dtype_policy=mixed_bfloat16"])
    )
    assert single["weights"] == mixed["weights"]  # variables are float32 in both
    # In bfloat16: two LSTMs of 512 + 7·512, the mixture's rows 8·512, hidden 4·1024 and sigmoid
    # 512, and the features of the softmax, 512. Gate, logits and the target's row are float32.
    halved = 2 * 4096 + 4096 + 4096 + 512 + 512
    assert single["activations"] - mixed["activations"] == 2 * halved


@pytest.mark.parametrize("make", MODELS)
def test_variables_equal_those_of_the_built_model(make):
    model = make()
    listed = [(variable.path, variable.shape) for variable in GraphBuild(model).variables()]
    assert not model.built
    model.build((None, None))
    built = [(variable.path, tuple(variable.shape)) for variable in model.trainable_variables]
    assert listed == built
    assert [(variable.path, variable.shape) for variable in GraphBuild(model).variables()] == built


def test_counting_does_not_change_random_numbers():
    def initial_weights(count):
        keras.utils.set_random_seed(3)
        model = language_model(lstm(4), MoE(6, 5))
        if count:
            memory_per_device(model, 1)
        model.build((None, None))
        return [weight.numpy() for weight in model.weights]

    for a, b in zip(initial_weights(False), initial_weights(True), strict=True):
        np.testing.assert_array_equal(a, b)


class UnregisteredGate(Softmax):
    """A gate whose class is not registered with Keras."""


def test_classes_need_not_be_registered():
    model = language_model(MoE(3, 5, gate=UnregisteredGate()))
    assert memory_per_device(model, 1)["experts"]["weights"] == 4 * 3 * 40


def test_model_with_137_billion_parameters():
    model = build_model(load_config("news100b/moe-131072-h"))
    memory = memory_per_device(model, 19_532, devices=128, optimizer="factored_adam")
    # 1024 experts of 2·512·1024, in 2 groups, each with a gate of 2·512·512.
    assert memory["experts"]["weights"] == 4 * 1024 * 2**20 == 2**32
    # Replicated: two LSTMs of 2^21 + 2048, the primary gate 2·512·256, and for 100,000 words the
    # embedding and the softmax with its biases.
    replicated = 2 * (2**21 + 2048) + 2**18 + 100_000 * (512 + 513)
    assert memory["weights"] == 2**32 + 4 * (2 * 2**19 + replicated)
    slots = memory["experts"]["optimizer_slots_by_optimizer"]
    assert slots["adam"] == 2 * 2**32
    # 512 + 1024 for each of an expert's two matrices: under 1% of the experts' bytes.
    assert slots["factored_adam"] == 4 * 1024 * 2 * 1536
    assert slots["factored_adam"] < 0.01 * memory["experts"]["weights"]
    assert not model.built and not model.weights
    assert all(isinstance(value, int) for value in memory.values() if not isinstance(value, dict))


def test_invalid_arguments():
    model = language_model(lstm(4))
    with pytest.raises(ValueError, match="nadamm"):
        memory_per_device(model, 1, optimizer="nadamm")
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        memory_per_device(model, 1, devices=0)
    unknown = language_model(keras.layers.Dense(4, name="dense"))
    with pytest.raises(NotImplementedError, match="dense, a Dense, must implement kept_for_back"):
        memory_per_device(unknown, 1)
