"""Converts `config.json` to a `Shape` and back."""

import json
import pathlib
from collections.abc import Mapping

from tfmoe.huggingface.shape import FAMILIES, Shape
from tfmoe.ops import arguments

CONFIG = "config.json"
ACTIVATIONS = ("silu", "gelu", "relu")
MAX_LAYERS = 10_000
# Features that tfmoe lacks: `{key: what to do}`. A value that is not empty and not 0 is refused.
UNSUPPORTED = {
    "quantization_config": "load weights that are not quantized",
    "attention_dropout": "tfmoe has no dropout of attention weights: 0 loads the model without it",
    "router_jitter_noise": "tfmoe has no jitter of the experts' inputs: 0 loads the model without "
    "it",
}


class ConfigurationError(ValueError):
    """A key of `config.json` is missing, or has a value that is not supported."""


class Keys:
    """The keys of a `config.json`. Errors name the file, the key and its value.

    Args:
        file: the path, for errors.
        values: its mapping.
    """

    def __init__(self, file, values: Mapping):
        self.file, self.values = file, values

    def error(self, key, message):
        """A `ConfigurationError`, to raise."""
        return ConfigurationError(f"{self.file}: {key} {message}, got {self.values.get(key)!r}")

    def checked(self, key, check, default=None):
        """The value of a key, by a function of `tfmoe.ops.arguments`. A missing key, or null, is
        the default; without a default it is an error.
        """
        value = self.values.get(key)
        if value is None and default is None:
            raise ConfigurationError(f"{self.file}: the key {key} is missing")
        try:
            return check(key, default if value is None else value)
        except ValueError as error:
            raise ConfigurationError(f"{self.file}: {error}") from None

    def integer(self, key, default=None):
        """A value of at least 1."""
        return self.checked(key, arguments.positive, default)

    def boolean(self, key, default):
        """A value that is true or false."""
        return self.checked(key, arguments.boolean, default)


def read_configuration(folder: pathlib.Path) -> Shape:
    """Reads the `config.json` of a checkpoint.

    Args:
        folder: of the checkpoint.

    Raises:
        FileNotFoundError: if there is no `config.json`.
        ConfigurationError: a ValueError, if a key is missing, or its value is not supported.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} does not exist: give the folder of a checkpoint (nothing is downloaded)"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{file} is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigurationError(f"{file} must be a mapping, got {type(values).__name__}")
    return shape_from(Keys(file, values))


def shape_from(keys: Keys) -> Shape:
    """Converts the keys of a `config.json`.

    Args:
        keys: `Keys`.

    Raises:
        ConfigurationError: as for `read_configuration`.
    """
    family = FAMILIES.get(str(keys.values.get("model_type")))
    if family is None:
        raise keys.error("model_type", f"must be one of {', '.join(FAMILIES)}")
    for key, hint in UNSUPPORTED.items():
        if keys.values.get(key):
            raise keys.error(key, f"is not supported ({hint})")
    activation = keys.values.get("hidden_act", ACTIVATIONS[0])
    if activation not in ACTIVATIONS:
        raise keys.error("hidden_act", f"must be one of {', '.join(ACTIVATIONS)}")
    d_model, num_heads = keys.integer("hidden_size"), keys.integer("num_attention_heads")
    if not keys.values.get("head_dim") and d_model % num_heads:
        raise keys.error("num_attention_heads", f"must be a divisor of hidden_size={d_model}")
    k = keys.integer("num_experts_per_tok")
    has_mixture = layers_with_mixtures(keys, family)
    expert_units = "moe_intermediate_size" if family.has_dense_layers else "intermediate_size"
    coefficient = keys.checked("router_aux_loss_coef", arguments.non_negative, 0.001)
    shape = Shape(
        family=family,
        vocabulary_size=keys.integer("vocab_size"),
        d_model=d_model,
        num_heads=num_heads,
        num_key_value_heads=keys.integer("num_key_value_heads", num_heads),
        head_units=keys.integer("head_dim", max(1, d_model // num_heads)),
        has_mixture=has_mixture,
        num_experts=number_of_experts(keys),
        expert_units=keys.integer(expert_units),
        k=k,
        dense_units=None if all(has_mixture) else keys.integer("intermediate_size"),
        renormalize=family.always_renormalizes or keys.boolean("norm_topk_prob", False),
        activation=activation,
        epsilon=keys.checked("rms_norm_eps", arguments.positive_number, family.epsilon),
        rotary_base=rotary_base(keys, family),
        sliding_window=sliding_window(keys, family),
        projection_biases=family.has_projection_biases and keys.boolean("attention_bias", False),
        tie_embeddings=keys.boolean("tie_word_embeddings", False),
        balance_weight=coefficient * k,
    )
    check_sizes(keys, shape)
    return shape


def check_sizes(keys, shape):
    """Raises a `ConfigurationError` for sizes that do not fit together."""
    if shape.k > shape.num_experts:
        raise keys.error("num_experts_per_tok", f"must be at most {shape.num_experts}, all experts")
    if shape.num_heads % shape.num_key_value_heads:
        message = f"must be a divisor of num_attention_heads={shape.num_heads}"
        raise keys.error("num_key_value_heads", message)
    if shape.head_units % 2:
        message = f"must be even for rotary positions (it is {shape.head_units})"
        raise keys.error("head_dim", message)


def number_of_experts(keys):
    """The number of experts. Transformers 4 writes `num_experts` for Qwen3-MoE."""
    key = "num_experts" if "num_experts" in keys.values else "num_local_experts"
    return keys.integer(key)


def layers_with_mixtures(keys, family):
    """For each layer, whether it has a mixture."""
    num_layers = keys.integer("num_hidden_layers")
    if num_layers > MAX_LAYERS:
        raise keys.error("num_hidden_layers", f"must be at most {MAX_LAYERS:,}")
    if not family.has_dense_layers:
        return (True,) * num_layers
    dense = keys.values.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(isinstance(index, int) for index in dense):
        raise keys.error("mlp_only_layers", "must be a list of the indices of layers")
    step = keys.integer("decoder_sparse_step", 1)
    return tuple((i + 1) % step == 0 and i not in dense for i in range(num_layers))


def rotary_base(keys, family):
    """The base of rotary positions: `rope_theta`, which Transformers 5 writes to
    `rope_parameters`.
    """
    base = keys.values.get("rope_theta")
    for key in ("rope_parameters", "rope_scaling"):
        rope = keys.values.get(key) or {}
        if not isinstance(rope, dict):
            raise keys.error(key, "must be a mapping or null")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind != "default":
            raise keys.error(key, "is not supported (tfmoe has rotary positions of type default)")
        base = rope.get("rope_theta", base)
    base = family.rotary_base if base is None else base
    if not arguments.is_finite(base) or base <= 0:
        raise ConfigurationError(f"{keys.file}: rope_theta must be above 0, got {base!r}")
    return float(base)


def sliding_window(keys, family):
    """The width of the window, or `None`. Qwen3-MoE has it behind a switch."""
    if family.has_dense_layers and not keys.boolean("use_sliding_window", False):
        return None
    return keys.values.get("sliding_window") and keys.integer("sliding_window")


def configuration_of(shape: Shape) -> dict:
    """The keys of the `config.json` of a `Shape`.

    Args:
        shape: of the model.
    """
    family = shape.family
    keys = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "vocab_size": shape.vocabulary_size,
        "hidden_size": shape.d_model,
        "num_hidden_layers": len(shape.has_mixture),
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_key_value_heads,
        "head_dim": shape.head_units,
        "hidden_act": shape.activation,
        "num_experts_per_tok": shape.k,
        "rms_norm_eps": shape.epsilon,
        "rope_theta": shape.rotary_base,
        "sliding_window": shape.sliding_window,
        "attention_dropout": 0.0,
        "tie_word_embeddings": shape.tie_embeddings,
        "router_aux_loss_coef": shape.balance_weight / shape.k,
        "output_router_logits": False,  # KerasHub needs the key
    }
    if not family.has_dense_layers:
        mixtures = {
            "intermediate_size": shape.expert_units,
            "num_local_experts": shape.num_experts,
        }
        return {**keys, **mixtures}
    return {
        **keys,
        "attention_bias": shape.projection_biases,
        "decoder_sparse_step": 1,
        "intermediate_size": shape.dense_units or shape.expert_units,
        "mlp_only_layers": [i for i, mixture in enumerate(shape.has_mixture) if not mixture],
        "moe_intermediate_size": shape.expert_units,
        "norm_topk_prob": shape.renormalize,
        "num_experts": shape.num_experts,
        "use_sliding_window": shape.sliding_window is not None,
    }
