"""Small checkpoints with random weights, and their logits by NumPy.

Axes: B batch, S steps, D model, H heads of queries, K heads of keys and values, U units of a head.
"""

import json

import numpy as np

from tfmoe.extras import optional

BASE = {
    "vocab_size": 19,
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "hidden_act": "silu",
    "router_aux_loss_coef": 0.001,
    "output_router_logits": False,
    "tie_word_embeddings": False,
}
MIXTRAL = {
    **BASE,
    "model_type": "mixtral",
    "intermediate_size": 12,
    "num_local_experts": 4,
    "rms_norm_eps": 1e-2,
    "rope_theta": 100.0,
    "sliding_window": None,
}
QWEN = {
    **BASE,
    "model_type": "qwen3_moe",
    "num_hidden_layers": 3,
    "head_dim": 6,
    "intermediate_size": 10,
    "moe_intermediate_size": 5,
    "num_experts": 6,
    "norm_topk_prob": True,
    "decoder_sparse_step": 1,
    "mlp_only_layers": [1],
    "rms_norm_eps": 1e-2,
    "rope_theta": 1000.0,
    "use_sliding_window": False,
    "sliding_window": 4,
    "attention_bias": False,
}
VARIANTS = {
    "mixtral": MIXTRAL,
    "mixtral window": {**MIXTRAL, "sliding_window": 3, "head_dim": 6, "tie_word_embeddings": True},
    "qwen": QWEN,
    "qwen biases": {
        **QWEN,
        "mlp_only_layers": [],
        "decoder_sparse_step": 2,
        "norm_topk_prob": False,
        "attention_bias": True,
        "use_sliding_window": True,
        "hidden_act": "gelu",
        "rope_theta": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 50.0},
    },
}
TOKENS = np.random.default_rng(1).integers(1, 19, (2, 7)).astype("int32")


def is_sparse(config, layer):
    if config["model_type"] == "mixtral":
        return True
    step = config["decoder_sparse_step"]
    return (layer + 1) % step == 0 and layer not in config["mlp_only_layers"]


def width_of_heads(config):
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def shapes(config):
    """`{name of a tensor: shape}`, as PyTorch stores them."""
    width, units = config["hidden_size"], width_of_heads(config)
    is_mixtral = config["model_type"] == "mixtral"
    queries, keys = (config[f"num_{name}_heads"] * units for name in ("attention", "key_value"))
    result = {"model.embed_tokens.weight": (config["vocab_size"], width)}
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        projections = {"q": (queries, width), "k": (keys, width), "v": (keys, width)}
        for name, shape in {**projections, "o": (width, queries)}.items():
            result[f"{layer}.self_attn.{name}_proj.weight"] = shape
            if config.get("attention_bias"):
                result[f"{layer}.self_attn.{name}_proj.bias"] = shape[:1]
        if not is_mixtral:
            result |= {f"{layer}.self_attn.{name}_norm.weight": (units,) for name in "qk"}
        for name in ("input_layernorm", "post_attention_layernorm"):
            result[f"{layer}.{name}.weight"] = (width,)
        if is_mixtral:
            names, prefix, units_key = ("w1", "w3", "w2"), "block_sparse_moe", "intermediate_size"
        else:
            names, prefix = ("gate_proj", "up_proj", "down_proj"), "mlp"
            units_key = "moe_intermediate_size"
        networks = [f"{layer}.mlp"]
        num_experts = config["num_local_experts" if is_mixtral else "num_experts"]
        if is_sparse(config, i):
            result[f"{layer}.{prefix}.gate.weight"] = (num_experts, width)
            networks = [f"{layer}.{prefix}.experts.{e}" for e in range(num_experts)]
        hidden = config[units_key if is_sparse(config, i) else "intermediate_size"]
        for network in networks:
            for name, shape in zip(names, [(hidden, width)] * 2 + [(width, hidden)], strict=True):
                result[f"{network}.{name}.weight"] = shape
    result["model.norm.weight"] = (width,)
    if not config["tie_word_embeddings"]:
        result["lm_head.weight"] = (config["vocab_size"], width)
    return result


def random_tensors(config, dtype="float32"):
    rng = np.random.default_rng(0)
    return {
        name: (rng.standard_normal(shape) * 0.4 + (len(shape) == 1)).astype(dtype)
        for name, shape in shapes(config).items()
    }


def write(folder, config, tensors, files=1):
    """Writes a checkpoint, in several files with an index if `files` is above 1."""
    save_file = optional("safetensors.numpy").save_file
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if files == 1:
        save_file(tensors, folder / "model.safetensors")
        return folder
    names = list(tensors)
    weight_map = {name: f"part-{i % files}.safetensors" for i, name in enumerate(names)}
    for file in set(weight_map.values()):
        part = {name: tensors[name] for name in names if weight_map[name] == file}
        save_file(part, folder / file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


class Reference:
    """The forward pass of a checkpoint in float64, written after the papers and `config.json`."""

    def __init__(self, config, tensors):
        self.config = config
        self.tensors = {name: np.asarray(value, "float64") for name, value in tensors.items()}

    def logits(self, tokens):
        """`[B, S]` to `[B, S, V]`."""
        embedding = self.tensors["model.embed_tokens.weight"]
        x = embedding[tokens]
        for i in range(self.config["num_hidden_layers"]):
            layer = f"model.layers.{i}"
            x = x + self.attention(f"{layer}.self_attn", self.norm(f"{layer}.input_layernorm", x))
            normal = self.norm(f"{layer}.post_attention_layernorm", x)
            x = x + (self.mixture if is_sparse(self.config, i) else self.dense)(layer, normal)
        return self.norm("model.norm", x) @ self.tensors.get("lm_head.weight", embedding).T

    def norm(self, name, x):
        mean_square = np.mean(x**2, axis=-1, keepdims=True)
        scale = self.tensors[f"{name}.weight"]
        return x / np.sqrt(mean_square + self.config["rms_norm_eps"]) * scale

    def linear(self, name, x):
        return x @ self.tensors[f"{name}.weight"].T + self.tensors.get(f"{name}.bias", 0)

    def attention(self, prefix, x):
        config, units = self.config, width_of_heads(self.config)
        q, k, v = (
            self.linear(f"{prefix}.{name}_proj", x).reshape(*x.shape[:2], -1, units)
            for name in "qkv"
        )
        if config["model_type"] == "qwen3_moe":
            q, k = self.norm(f"{prefix}.q_norm", q), self.norm(f"{prefix}.k_norm", k)
        q, k = self.rotate(q), self.rotate(k)
        window = config["sliding_window"] if config.get("use_sliding_window", True) else None
        steps = np.arange(x.shape[1])
        distance = steps[:, None] - steps[None, :]
        visible = (distance >= 0) & (distance < (window or np.inf))
        sharing = config["num_attention_heads"] // config["num_key_value_heads"]
        heads = []
        for h in range(config["num_attention_heads"]):
            scores = q[:, :, h] @ np.swapaxes(k[:, :, h // sharing], 1, 2) / np.sqrt(units)
            weights = np.where(visible, np.exp(scores), 0)
            weights /= weights.sum(axis=-1, keepdims=True)
            heads.append(weights @ v[:, :, h // sharing])
        return self.linear(f"{prefix}.o_proj", np.concatenate(heads, axis=-1))

    def rotate(self, x):
        """Turns the pairs of the first and second half by complex factors."""
        base = self.config["rope_theta"] or self.config["rope_parameters"]["rope_theta"]
        half = x.shape[-1] // 2
        angles = np.arange(x.shape[1])[:, None, None] / base ** (np.arange(half) / half)
        turned = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * angles)
        return np.concatenate([turned.real, turned.imag], axis=-1)

    def network(self, prefix, x):
        names = ("w1", "w3", "w2")
        if self.config["model_type"] == "qwen3_moe":
            names = ("gate_proj", "up_proj", "down_proj")
        gate, up, down = (f"{prefix}.{name}" for name in names)
        return self.linear(down, self.activation(self.linear(gate, x)) * self.linear(up, x))

    def activation(self, x):
        if self.config["hidden_act"] == "silu":
            return x / (1 + np.exp(-x))
        return x * normal_distribution(x)

    def dense(self, layer, x):
        return self.network(f"{layer}.mlp", x)

    def mixture(self, layer, x):
        is_mixtral = self.config["model_type"] == "mixtral"
        prefix = f"{layer}.{'block_sparse_moe' if is_mixtral else 'mlp'}"
        scores = np.exp(self.linear(f"{prefix}.gate", x))
        scores /= scores.sum(axis=-1, keepdims=True)
        k, num_experts = self.config["num_experts_per_tok"], scores.shape[-1]
        chosen = scores >= np.sort(scores, axis=-1)[..., num_experts - k, None]
        weights = np.where(chosen, scores, 0)
        if is_mixtral or self.config["norm_topk_prob"]:
            weights /= weights.sum(axis=-1, keepdims=True)
        outputs = (self.network(f"{prefix}.experts.{e}", x) for e in range(num_experts))
        return sum(weights[..., e, None] * output for e, output in enumerate(outputs))


def normal_distribution(x):
    """P(X <= x), by the trapezoidal rule from -12."""
    grid = np.linspace(-12, 12, 200_001)
    density = np.exp(-(grid**2) / 2) / np.sqrt(2 * np.pi)
    steps = (density[1:] + density[:-1]) / 2 * np.diff(grid)
    return np.interp(x, grid, np.concatenate([[0], np.cumsum(steps)]))
