"""Describes a language model as a `Shape`, or says why the format cannot hold it.

A model is described by its Keras configuration, the constructor arguments of all its layers.
"""

from typing import Any, NamedTuple

import keras

from tfmoe.huggingface.configuration import ACTIVATIONS
from tfmoe.huggingface.shape import MIXTRAL, QWEN3_MOE, Shape
from tfmoe.models import LanguageModel

MODEL, ATTENTION, MIXTURE, DENSE, GATE = (
    f"tfmoe>{name}" for name in ("LanguageModel", "SelfAttention", "MoE", "FeedForward", "TopK")
)
# The only values of options that the format can hold.
MODEL_OPTIONS = {"final_norm": "rms", "softmax_bias": False}
BLOCK_OPTIONS = {"norm": "rms", "activation": "linear", "residual": True}
NETWORK_OPTIONS = {"gated": True, "depth": 1, "use_bias": False}
MIXTURE_OPTIONS = {
    **NETWORK_OPTIONS,
    "groups": None,
    "shared_experts": 0,
    "experts": None,
    "evaluation_capacity_factor": None,
}
GATE_OPTIONS = {"score": "softmax", "scale": 1.0, "use_bias": False, "gate_hidden_units": None}


class Part(NamedTuple):
    """A part of a model.

    Attributes:
        where: its name in errors.
        kind: the registered name of its class.
        options: its constructor arguments.
    """

    where: str
    kind: str
    options: dict[str, Any]

    def check(self, expected):
        """Raises a ValueError if an option has another value than the format can hold."""
        for key, value in expected.items():
            if self.options[key] != value:
                raise self.error(key, f"{value!r}")

    def error(self, key, expected):
        """A ValueError about an option."""
        return ValueError(
            f"{self.where}: {key} must be {expected} in a Hugging Face checkpoint, got "
            f"{self.options[key]!r}"
        )

    def within(self, where, key):
        """The part that an option describes."""
        return part_of(where, self.options[key])


def part_of(where, serialized):
    """The `Part` of an object that Keras serialized."""
    return Part(where, serialized["registered_name"] or "", serialized["config"])


def shape_of(model: LanguageModel) -> Shape:
    """The `Shape` of a language model.

    Args:
        model: a `tfmoe.models.LanguageModel`.

    Raises:
        ValueError: if it is not built, or neither Mixtral nor Qwen3-MoE can hold it; the message
            names the block and its option.
    """
    description = part_of("model", keras.saving.serialize_keras_object(model))
    if description.kind != MODEL:
        raise ValueError(
            "model must be a tfmoe.models.LanguageModel in a Hugging Face checkpoint, got "
            f"{type(model).__name__}"
        )
    if not model.built:
        raise ValueError("model must be built: call model.build((None, None)) first")
    description.check(MODEL_OPTIONS)
    blocks = [
        part_of(f"blocks[{index}] ({block.layer.name})", serialized)
        for index, (block, serialized) in enumerate(
            zip(model.blocks, description.options["blocks"], strict=True)
        )
    ]
    layers = [block.within(block.where, "layer") for block in blocks]
    check_order(layers)
    for block in blocks:
        block.check(BLOCK_OPTIONS)
    attentions, networks = layers[::2], layers[1::2]
    mixtures = [part for part in networks if part.kind == MIXTURE]
    if not mixtures:
        raise ValueError("model must have a mixture in a Hugging Face checkpoint, got none")
    epsilon = equal([*blocks, *attentions, description], EPSILON_KEYS)
    family, options = family_of(attentions, networks), description.options
    return Shape(
        family=family,
        vocabulary_size=options["vocabulary_size"],
        d_model=options["d_model"],
        has_mixture=tuple(part.kind == MIXTURE for part in networks),
        epsilon=float(epsilon),
        tie_embeddings=options["tie_embeddings"],
        **attention_shape(attentions, family, options["d_model"]),
        **network_shape(networks, mixtures, family),
    )


# The option that holds the epsilon: of blocks, of attention, of the model.
EPSILON_KEYS = ("norm_epsilon", "query_key_norm_epsilon", "final_norm_epsilon")


def check_order(layers):
    """Raises a ValueError unless layers of attention alternate with networks."""
    kinds = ((ATTENTION,), (MIXTURE, DENSE))
    for index, part in enumerate(layers):
        expected = kinds[index % 2]
        if part.kind not in expected:
            raise ValueError(
                f"{part.where} must be a {' or a '.join(map(short, expected))} in a Hugging Face "
                f"checkpoint, got a {short(part.kind)}"
            )
    if len(layers) % 2:
        raise ValueError(
            f"{layers[-1].where} must be followed by a {short(MIXTURE)} or a {short(DENSE)} in a "
            "Hugging Face checkpoint"
        )


def short(kind):
    """The name of a class without that of the package."""
    return kind.rpartition(">")[2]


def equal(parts, keys):
    """The common value of an option of several parts.

    Args:
        parts: list of `Part`.
        keys: names of the option; each part has one of them, or it does not apply.

    Raises:
        ValueError: if values differ.
    """
    first = value = None
    for part in parts:
        for key in keys:
            if key not in part.options or is_idle(part, key):
                continue
            if first is None:
                first, value = part, part.options[key]
            elif part.options[key] != value:
                raise part.error(key, f"{value!r}, that of {first.where},")
    return value


def is_idle(part, key):
    """Whether an option has no effect: the epsilon of a layer without a normalization."""
    return key == "query_key_norm_epsilon" and part.options["query_key_norm"] is None


def family_of(attentions, networks):
    """The `Family` that can hold a model: Qwen3-MoE normalizes queries and keys, Mixtral does
    not.
    """
    if equal(attentions, ["query_key_norm"]) is not None:
        for part in attentions:
            part.check({"query_key_norm": "rms"})
        return QWEN3_MOE
    for part in networks:
        if part.kind != MIXTURE:
            raise ValueError(
                f"{part.where} must be a {short(MIXTURE)} in a checkpoint of {MIXTRAL.title}, got "
                f"a {short(part.kind)}: {QWEN3_MOE.title} has dense networks, and "
                "query_key_norm='rms' in all blocks of attention"
            )
    for part in attentions:
        part.check({"use_bias": False})
    return MIXTRAL


def attention_shape(attentions, family, d_model):
    """The attributes of a `Shape` that attention determines."""
    for part in attentions:
        part.check({"causal": True})
        if part.options["rotary_base"] is None:
            raise part.error("rotary_base", "a number")
    num_heads = equal(attentions, ["num_heads"])
    return {
        "num_heads": num_heads,
        "num_key_value_heads": equal(attentions, ["num_key_value_heads"]),
        "head_units": equal(attentions, ["head_units"]) or d_model // num_heads,
        "rotary_base": equal(attentions, ["rotary_base"]),
        "sliding_window": equal(attentions, ["sliding_window"]),
        "projection_biases": equal(attentions, ["use_bias"]),
    }


def network_shape(networks, mixtures, family):
    """The attributes of a `Shape` that mixtures and dense networks determine."""
    gates = []
    for part in networks:
        is_mixture = part.kind == MIXTURE
        part.check(MIXTURE_OPTIONS if is_mixture else NETWORK_OPTIONS)
        if part.options["activation"] not in ACTIVATIONS:
            raise part.error("activation", f"one of {', '.join(ACTIVATIONS)}")
        if is_mixture:
            gates.append(part.within(f"{part.where}, gate", "gate"))
    for gate in gates:
        if gate.kind != GATE:
            raise ValueError(
                f"{gate.where} must be a {short(GATE)} in a Hugging Face checkpoint, got a "
                f"{short(gate.kind)}"
            )
        gate.check(GATE_OPTIONS)
        if family.always_renormalizes:
            gate.check({"renormalize": True})
    dense = [part for part in networks if part.kind == DENSE]
    return {
        "num_experts": equal(mixtures, ["num_experts"]),
        "expert_units": equal(mixtures, ["hidden_units"]),
        "dense_units": equal(dense, ["hidden_units"]),
        "activation": equal(networks, ["activation"]),
        "k": equal(gates, ["k"]),
        "renormalize": equal(gates, ["renormalize"]),
        "balance_weight": gates[0].options["balance_weight"],
    }
