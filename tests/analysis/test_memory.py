import keras
import numpy as np
import pytest
import tensorflow as tf
from gradient_reads import kept, read_by_gradient, step_by_step

from tfmoe.analysis.memory import COMPARED, memory_per_device
from tfmoe.analysis.variables import GraphBuild
from tfmoe.config import build_model, load_config
from tfmoe.gating import Batchwise, Hierarchical, NoisyTopK, Softmax
from tfmoe.layers import AttentionLSTM, FeedForward, MoE, ProjectedLSTM, Residual
from tfmoe.models import LanguageModel, TranslationModel, residual_blocks
from tfmoe.optimizers import FactoredAdagrad, FactoredAdam, WarmupInverseSqrt

RNG = np.random.default_rng(0)


def lstm(*widths):
    return ProjectedLSTM(*widths, return_sequences=True)


def model_of(*layers, dropout=0.0, num_sampled=None):
    blocks = residual_blocks(layers, dropout=dropout)
    return LanguageModel(11, 4, blocks, dropout=dropout, num_sampled=num_sampled)


def translation_of(encoder, decoder, dropout=0.0):
    encoder, decoder = (residual_blocks(each, dropout=dropout) for each in (encoder, decoder))
    return TranslationModel(11, 4, encoder, decoder, dropout=dropout)


def test_by_hand():
    model = model_of(lstm(8, 4), MoE(6, 5, gate=NoisyTopK(k=2)))
    # Embedding 44, LSTM 320, gates 2·4·6 = 48, experts 6·2·4·5 = 240, softmax 55: 707 numbers.
    # FactoredAdam: for each of six experts 4 + 5 and 5 + 4, and twice the other 467.
    # A position keeps: LSTM 4 + 7·8 + 4 = 64; gate 4 and 4·2·6, rows 2·2·4, hidden 2·5, sigmoid 4:
    # 72 and 10; loss 4 and 11 logits. 64 + 72 + 15 = 151 numbers, and 10 without recompute.
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


def test_recompute_as_set_and_the_optimizer_asked_for():
    moe = MoE(6, 5, gate=NoisyTopK(k=2), recompute=True)
    memory = memory_per_device(model_of(moe), tokens=10, optimizer="factored_adam")
    assert memory["activations"] == memory["activations_with_recompute"]
    assert memory["activations_without_recompute"] - memory["activations"] == 4 * 10 * 10
    assert memory["optimizer_slots"] == memory["optimizer_slots_by_optimizer"]["factored_adam"]
    parts = ("weights", "gradients", "optimizer_slots", "activations")
    assert memory["total"] == sum(memory[part] for part in parts)


@pytest.mark.parametrize(("devices", "experts"), [(1, 6), (2, 3), (3, 2), (4, 2), (6, 1), (9, 1)])
def test_experts_are_sharded_and_the_rest_is_not(devices, experts):
    model = model_of(MoE(6, 5, use_bias=True, gate=NoisyTopK(k=2)))
    memory = memory_per_device(model, tokens=10, devices=devices)
    # An expert: 2·4·5 and 5 + 4 biases. Not sharded: 44 + 55 and the gates' 48.
    assert memory["experts"]["weights"] == 4 * experts * 49
    assert memory["weights"] == 4 * (experts * 49 + 147)
    # Biases are no matrices: two full slots.
    slots = memory["experts"]["optimizer_slots_by_optimizer"]
    assert slots["adam"] == 4 * experts * 98
    assert slots["factored_adam"] == 4 * experts * (18 + 18)
    one = memory_per_device(model, tokens=10)
    assert memory["activations"] == one["activations"]


@pytest.mark.parametrize(("devices", "groups"), [(1, 3), (2, 2), (3, 1), (5, 1)])
def test_secondary_mixtures_are_whole(devices, groups):
    model = model_of(MoE(12, 5, groups=3, gate=NoisyTopK(k=2)))
    memory = memory_per_device(model, tokens=10, devices=devices)
    # A group: 4 experts of 40, a gate of 2·4·4. Not sharded: 99 and the primary gate's 2·4·3.
    assert memory["weights"] == 4 * (groups * (160 + 32) + 99 + 24)
    assert memory["experts"]["weights"] == 4 * groups * 160


@pytest.mark.parametrize(("devices", "groups"), [(1, 3), (2, 2), (3, 1), (5, 1)])
def test_thresholds_are_where_their_gates_are(devices, groups):
    model = model_of(MoE(12, 5, groups=3, gate=Batchwise(k=2)))
    memory = memory_per_device(model, tokens=10, devices=devices)
    # A group: 4 experts of 40, a gate of 4·4 and 4 thresholds. Not sharded: 99, the primary gate's
    # 4·3 and its 3 thresholds.
    assert memory["weights"] == 4 * (groups * (160 + 20) + 99 + 15)
    assert memory["experts"]["weights"] == 4 * groups * 160


def test_translation_by_hand():
    moe = MoE(6, 5, gate=Batchwise(k=2))
    model = translation_of([lstm(4), moe], [AttentionLSTM(8, 4, attention_units=3)])
    # LSTM 144, gate 24 and 6 thresholds, experts 240, decoder 4·12·8 + 32 + 32 and (4 + 4 + 1)·3,
    # embedding 44, softmax 55: 988 numbers.
    # A source position keeps: LSTM 4 + 28; gate 4 and 2·6, rows 2·2·4, hidden 2·5, sigmoid 4; for
    # the attention 4 + 2·3. 82 and 10. A target position: 4 + 7·8 + 4, context 4, query 3, of 7
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
            translation_of([lstm(4)], [AttentionLSTM(4), lstm(4)], dropout=dropout), tokens=2
        )["activations"]
        for dropout in (0.0, 0.1)
    )
    # A byte for each of 4 elements: behind the embedding and a block of the source, behind the
    # embedding and two blocks of the target.
    assert dropped - plain == 4 * (2 + 3)


# What each layer keeps of a position in numbers, D = 4, without and with hidden activations.
@pytest.mark.parametrize(
    ("layer", "always", "hidden"),
    [
        (lstm(4), 4 + 28, 0),
        (lstm(8, 4), 4 + 56 + 4, 0),
        (FeedForward(6), 4 + 6, 0),
        (FeedForward(6, depth=3), 4 + 18, 0),
        (FeedForward(6, activation="gelu"), 4 + 12, 0),
        (MoE(6, 5, gate=NoisyTopK(k=2, noise=False)), 4 + 4 * 6 + 16, 10),
        (MoE(6, 5, depth=2, activation="silu", gate=Softmax()), 4 + 4 * 6 + 48, 6 * 10),
        # Gates: 3 groups, then 2 of 4 experts, two matrices each; 4 experts for a position; what
        # comes back from 2 groups.
        (MoE(12, 5, groups=3, gate=NoisyTopK(k=2)), 12 + 4 * 2 * (3 + 8) + 32 + 8, 20),
        (MoE(6, 5, gate=Batchwise(k=2)), 4 + 2 * 6 + 16, 10),
        (MoE(12, 5, groups=3, gate=Batchwise(k=2)), 12 + 2 * (3 + 8) + 32 + 8, 20),
        # A strictly balanced gate at the first level only.
        (
            MoE(12, 5, gate=Hierarchical(3, Batchwise(k=2), NoisyTopK(k=2))),
            12 + 2 * 3 + 4 * 2 * 8 + 32 + 8,
            20,
        ),
        (AttentionLSTM(4), 4 + 28 + 4 + 4, 0),
        (AttentionLSTM(8, 4, attention_units=3), 4 + 56 + 4 + 4 + 3, 0),
        (AttentionLSTM(8, 4, attention_units=3, attention="additive"), 4 + 56 + 4 + 4, 0),
    ],
)
def test_kept_by_layer(layer, always, hidden):
    assert layer.kept_for_backward(4) == (4 * always, 4 * hidden, False)


@pytest.mark.parametrize(
    ("attention", "of_steps", "of_source"),
    # 2 weights for each of 5 source steps, and 3 numbers each if additive; D = 4, A = 3.
    [("multiplicative", 3 + 2 * 5, 4 + 2 * 3), ("additive", 5 * 3 + 2 * 5, 4)],
)
def test_kept_by_attention(attention, of_steps, of_source):
    layer = AttentionLSTM(8, 4, attention_units=3, attention=attention)
    assert layer.kept_for_backward(4, steps=5).total() == 4 * (4 + 56 + 4 + 4 + of_steps)
    assert layer.kept_of_source(4) == 4 * of_source


def test_dropout_and_sampling():
    plain = memory_per_device(model_of(lstm(4)), tokens=1)["activations"]
    # A byte for each of 4 elements, behind the embedding and behind the block.
    dropped = memory_per_device(model_of(lstm(4), dropout=0.1), tokens=1)["activations"]
    assert dropped - plain == 8
    # 3 candidates and the target instead of 11 words, and the target's row of 4.
    sampled = memory_per_device(model_of(lstm(4), num_sampled=3), tokens=1)["activations"]
    assert sampled - plain == 4 * (4 - 11 + 4)


def test_mixed_precision():
    one, other = (
        memory_per_device(build_model(load_config("lm1b/moe-32", overrides)), tokens=1)
        for overrides in ([], ["training.dtype_policy=mixed_bfloat16"])
    )
    assert one["weights"] == other["weights"]  # variables are float32 in both
    # Half of: two LSTMs of 512 + 7·512, the mixture's rows 8·512, hidden 4·1024 and sigmoid 512,
    # and the features of the softmax, 512. Gate, logits and the target's row stay in float32.
    halved = 2 * 4096 + 4096 + 4096 + 512 + 512
    assert one["activations"] - other["activations"] == 2 * halved


def array(*shape):
    return RNG.standard_normal(shape).astype("float32")


@pytest.mark.parametrize("layer", [FeedForward(24, depth=2), FeedForward(24, activation="tanh")])
def test_kept_equals_what_the_traced_gradient_reads(layer):
    inputs = array(2, 10, 8)
    layer.build(inputs.shape)
    read = read_by_gradient(layer, inputs, call=layer)
    assert sum(read.values()) + inputs.size == kept(layer, inputs)


@pytest.mark.parametrize("layer", [lstm(16, 8), lstm(8), Residual(lstm(16, 8))])
def test_kept_by_lstm_equals_what_the_traced_gradient_reads(layer):
    inputs = array(2, 10, 8)
    layer.build(inputs.shape)
    read = read_by_gradient(layer, inputs, call=step_by_step(layer))
    # The first step reads zeros, and after the last the cell goes nowhere.
    unused = 2 * sum(state.shape[1] for state in layer.initial_state(2))
    assert kept(layer, inputs) - unused <= sum(read.values()) <= kept(layer, inputs)


@pytest.mark.parametrize("attention", ["multiplicative", "additive"])
@pytest.mark.parametrize(("units", "projected"), [(16, 8), (8, None)])
def test_kept_by_attention_equals_what_the_traced_gradient_reads(attention, units, projected):
    inputs, memory = array(2, 10, 8), array(2, 7, 8)
    layer = AttentionLSTM(units, projected, attention_units=5, attention=attention)
    layer.build(inputs.shape)
    mask = tf.ones(memory.shape[:2], tf.bool)
    prepared = layer.prepared
    layer.prepared = lambda memory: prepared(memory, mask)
    read = read_by_gradient(layer, inputs, memory, call=step_by_step(layer))
    # The tanh of the query is read in two views.
    total = sum(size for name, size in read.items() if "MatVec/ExpandDims" not in name)
    total += memory.size
    # The first step reads zeros, and after the last the state goes nowhere.
    unused = 2 * (units + 8)
    assert kept(layer, inputs, memory) - unused <= total <= kept(layer, inputs, memory)


@pytest.mark.parametrize("groups", [None, 3])
def test_kept_by_strictly_balanced_mixture_equals_what_the_traced_gradient_reads(groups):
    inputs = array(60, 16)
    layer = MoE(6, 8, groups=groups, gate=Batchwise(k=2, importance_weight=0.1))
    layer.build(inputs.shape)
    read = read_by_gradient(layer, inputs, call=lambda x: layer(x, training=True), by_hand=True)
    of_position = (sum(read.values()) + inputs.size) / 60
    kept = layer.kept_for_backward(16).total() / 4
    # Some numbers for each pair of a position and an expert, and each expert, are not counted.
    num_selected = layer.gate.num_selected + (0 if groups is None else 2)
    assert kept <= of_position <= kept + 5 * num_selected + 1


MODELS = [
    lambda: model_of(lstm(8, 4), FeedForward(6, use_bias=True, depth=2), FeedForward(5)),
    lambda: model_of(MoE(6, 5, depth=2, use_bias=True, gate=NoisyTopK(k=2))),
    lambda: model_of(MoE(12, 5, groups=3, gate=NoisyTopK(k=2)), lstm(4), MoE(3, 5, gate=Softmax())),
    lambda: translation_of(
        [lstm(8, 4), MoE(6, 5, gate=Batchwise(k=2)), lstm(4)],
        [AttentionLSTM(8, 4, 3), MoE(12, 5, groups=3, gate=Batchwise(k=2)), FeedForward(5)],
    ),
    lambda: translation_of([lstm(4)], [AttentionLSTM(4, attention="additive"), lstm(4)]),
]


@pytest.mark.parametrize("make", MODELS)
def test_variables_are_those_that_are_built(make):
    model = make()
    listed = [(each.path, each.shape) for each in GraphBuild(model).variables()]
    assert not model.built
    model.build((None, None))
    built = [(each.path, tuple(each.shape)) for each in model.trainable_variables]
    assert listed == built
    assert [(each.path, each.shape) for each in GraphBuild(model).variables()] == built


OPTIMIZERS = [
    ("adam", keras.optimizers.Adam, {}),
    ("factored_adam", FactoredAdam, {}),
    (None, FactoredAdam, {"factored_beta_1": 0.5}),
    (None, FactoredAdam, {"factored": "matrices"}),
    (None, FactoredAdam, {"factored": "none"}),
    (None, FactoredAdam, {"factored": ["kernel", "embedding"]}),
    ("factored_adagrad", FactoredAdagrad, {}),
    (None, keras.optimizers.SGD, {}),
    (None, keras.optimizers.SGD, {"momentum": 0.9, "learning_rate": WarmupInverseSqrt(1.0)}),
    (None, keras.optimizers.Adafactor, {}),
    (None, keras.optimizers.AdamW, {"use_ema": True, "gradient_accumulation_steps": 2}),
    (None, keras.optimizers.Lion, {}),
]


@pytest.mark.parametrize(("name", "kind", "options"), OPTIMIZERS)
@pytest.mark.parametrize("make", MODELS)
def test_slots_are_those_of_the_real_optimizers(make, name, kind, options):
    model = make()
    counted = memory_per_device(model, tokens=1, optimizer=kind(**options))
    model.build((None, None))
    assert bytes_of(model.trainable_variables) == counted["weights"]
    optimizer = kind(**options)
    of_optimizer = len(optimizer.variables)  # iterations and learning rate
    optimizer.build(model.trainable_variables)
    assert bytes_of(optimizer.variables[of_optimizer:]) == counted["optimizer_slots"]
    if name is not None:
        assert counted["optimizer_slots_by_optimizer"][name] == counted["optimizer_slots"]
        assert memory_per_device(model, tokens=1, optimizer=name) == counted


def bytes_of(variables):
    return sum(each.shape.num_elements() * tf.as_dtype(each.dtype).size for each in variables)


def test_optimizers_by_name_and_configuration():
    model = model_of(lstm(4))
    weights = memory_per_device(model, 1)["weights"]
    assert memory_per_device(model, 1, optimizer="lion")["optimizer_slots"] == weights
    config = keras.optimizers.serialize(keras.optimizers.SGD(momentum=0.5))
    assert memory_per_device(model, 1, optimizer=config)["optimizer_slots"] == weights


@pytest.mark.parametrize("devices", [1, 4])
def test_slots_are_sharded_as_their_variables(devices):
    model = model_of(MoE(8, 5, groups=4, gate=NoisyTopK(k=2)))
    optimizer = keras.optimizers.SGD(momentum=0.9)
    memory = memory_per_device(model, 1, devices, optimizer)
    assert memory["optimizer_slots"] == memory["weights"]
    # 2 experts of 2·4·5 in each group; its gate 2·4·2. Not sharded: 99, the primary gate's 2·4·4.
    assert memory["weights"] == 4 * (4 // devices * (80 + 16) + 99 + 32)
    factors = memory_per_device(model, 1, devices)["experts"]["optimizer_slots_by_optimizer"]
    assert factors["factored_adam"] == 4 * 8 // devices * (4 + 5 + 5 + 4)


def test_half_precision_has_slots_in_single():
    layer = MoE(6, 5, gate=NoisyTopK(k=2), dtype="bfloat16")
    built = GraphBuild(layer, (None, 4))
    assert {each.dtype for each in built.variables()} == {"bfloat16"}
    slots = {each.path.rpartition("_")[2]: each.dtype for each in built.slots(FactoredAdam())}
    assert (slots["rows"], slots["columns"]) == ("float32", "float32")


def test_counting_leaves_random_numbers_as_they_were():
    def drawn(count):
        keras.utils.set_random_seed(3)
        model = model_of(lstm(4), MoE(6, 5))
        if count:
            memory_per_device(model, 1)
        model.build((None, None))
        return [weight.numpy() for weight in model.weights]

    for a, b in zip(drawn(False), drawn(True), strict=True):
        np.testing.assert_array_equal(a, b)


class OwnGate(Softmax):
    """A gate that is not registered."""


def test_classes_need_not_be_registered():
    model = model_of(MoE(3, 5, gate=OwnGate()))
    assert memory_per_device(model, 1)["experts"]["weights"] == 4 * 3 * 40


def test_137_billion():
    model = build_model(load_config("news100b/moe-131072-h"))
    memory = memory_per_device(model, 19_532, devices=128, optimizer="factored_adam")
    # 1024 experts of 2·512·1024, in 2 groups with gates of 2·512·512 each.
    assert memory["experts"]["weights"] == 4 * 1024 * 2**20 == 2**32
    # Replicated: two LSTMs of 2^21 + 2048, the primary gate 2·512·256, the embedding, and the
    # softmax with its biases, for 100,000 words.
    replicated = 2 * (2**21 + 2048) + 2**18 + 100_000 * (512 + 513)
    assert memory["weights"] == 2**32 + 4 * (2 * 2**19 + replicated)
    slots = memory["experts"]["optimizer_slots_by_optimizer"]
    assert slots["adam"] == 2 * 2**32
    # Two matrices of 512 + 1024 for each expert: under 1% of the experts' bytes.
    assert slots["factored_adam"] == 4 * 1024 * 2 * 1536
    assert slots["factored_adam"] < 0.01 * memory["experts"]["weights"]
    assert not model.built and not model.weights
    assert all(isinstance(value, int) for value in memory.values() if not isinstance(value, dict))


def test_compared_are_the_optimizers_of_configs():
    assert set(COMPARED) == {"adam", "factored_adam", "factored_adagrad"}
    memory = memory_per_device(model_of(lstm(4)), 1)
    assert set(memory["optimizer_slots_by_optimizer"]) == set(COMPARED)


def test_mistakes():
    model = model_of(lstm(4))
    with pytest.raises(ValueError, match="nadamm"):
        memory_per_device(model, 1, optimizer="nadamm")
    with pytest.raises(ValueError, match="devices must be at least 1, got 0"):
        memory_per_device(model, 1, devices=0)
    unknown = model_of(keras.layers.Dense(4, name="dense"))
    with pytest.raises(NotImplementedError, match="dense, a Dense, must implement kept_for_back"):
        memory_per_device(unknown, 1)
