"""Compares KerasHub's evaluation of all experts with the sparse one of `tfmoe.keras_hub.sparsify`.

Symbols: T tokens, E experts, K selected experts per token, D model, H hidden units of one expert.

A case is a random `CausalLM` of a family: 2 layers, D = 128, H = 256, K = 2, 4 heads, a vocabulary
of 1000 words, float32; a shared expert or a dense layer beside the experts has H hidden units too.
Qwen3.5-MoE has one layer with linear and one with full attention; a second case has two of the
latter.
Both evaluations use the same variables in one process and take turns. Times are processor times,
which other processes disturb less than the clock; ratios are medians over the rounds.

    mixture     forward and backward pass of one mixture (router, experts, balancing loss) for
                T = 512 tokens, with gradients of inputs and weights, without optimizer
    model       a step of `fit` for 4 sentences of 128 words, with Adam
    token       one of 32 words that the model generates for a prompt of 8 words, one sentence

Columns: milliseconds of the dense and of the sparse evaluation, and dense over sparse.

    python benchmarks/keras_hub.py                    # all cases: minutes
    python benchmarks/keras_hub.py --families Mixtral --experts 64 --rounds 9
    python benchmarks/keras_hub.py --json
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.pop(0)  # this folder, where this file has the name of the package
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import keras
import keras_hub
import numpy as np
import tensorflow as tf

from tfmoe.keras_hub import sparsify
from tfmoe.keras_hub.registry import sparse_class_of
from tfmoe.layers.mixture_layer import layers_within

D, H, K, LAYERS, VOCABULARY = 128, 256, 2, 2, 1000
SENTENCES, STEPS = 4, 128
PROMPT, GENERATED = 8, 32
PARTS = ("mixture", "model", "token")
HIDDEN = {"moe_intermediate_dim": H}
QWEN3_5 = {
    **HIDDEN,
    "shared_expert_intermediate_size": H,
    "head_dim": 32,
    "linear_num_key_heads": 4,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 32,
    "linear_value_head_dim": 32,
}
# The names of the classes without their ends, and the arguments of the backbone.
FAMILIES = {
    "Mixtral": ("Mixtral", {"intermediate_dim": H}),
    "Qwen-MoE": (
        "QwenMoe",
        {**HIDDEN, "intermediate_dim": H, "shared_expert_intermediate_dim": H},
    ),
    "Qwen3-MoE": ("Qwen3Moe", {**HIDDEN, "intermediate_dim": H, "head_dim": 32}),
    "Qwen3.5-MoE": (
        "Qwen3_5Moe",
        {**QWEN3_5, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "Qwen3.5-MoE, full attention": (
        "Qwen3_5Moe",
        {**QWEN3_5, "layer_types": ["full_attention", "full_attention"]},
    ),
    "gpt-oss": ("GptOss", {"intermediate_dim": H, "head_dim": 32}),
    "Gemma 4": (
        "Gemma4",
        {
            "intermediate_dim": H,
            "expert_intermediate_dim": H,
            "enable_moe_block": True,
            "head_dim": 32,
            "image_size": 16,
        },
    ),
}


def main():
    options = parse_arguments()
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    rows = []
    for family in options.families:
        for experts in options.experts:
            print(f"{family}, {experts} experts …", file=sys.stderr)
            rows.append({"family": family, "experts": experts, **measure(family, experts, options)})
            if not options.json:
                print_row(rows[-1], header=len(rows) == 1)
            keras.backend.clear_session()
    if options.json:
        print(json.dumps({"threads": options.threads, "rounds": options.rounds, "cases": rows}))


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=[*FAMILIES])
    parser.add_argument("--experts", type=int, nargs="+", default=[8, 32, 64, 128], metavar="E")
    parser.add_argument("--rounds", type=int, default=5, help="timed pairs per case; default: 5")
    parser.add_argument("--threads", type=int, default=1, help="of TensorFlow; default: 1")
    parser.add_argument("--json", action="store_true", help="print one JSON object only")
    return parser.parse_args()


def measure(family, num_experts, options):
    """The medians of a case, `{part: {"dense", "sparse": ms, "ratio"}}`."""
    model = make_model(family, num_experts)
    mixture = first_mixture(model)
    dense = warm(runners(model, mixture))
    sparse = warm(runners(sparsify(model), mixture))
    times = {part: {"dense": [], "sparse": []} for part in PARTS}
    for _ in range(options.rounds):
        for part in PARTS:
            for kind, functions in (("dense", dense), ("sparse", sparse)):
                start = time.process_time()
                functions[part]()
                times[part][kind].append(1e3 * (time.process_time() - start))
    for kinds in times.values():
        kinds["ratio"] = np.divide(kinds["dense"], kinds["sparse"])
    times["token"]["dense"], times["token"]["sparse"] = (
        np.divide(times["token"][kind], GENERATED) for kind in ("dense", "sparse")
    )
    return {
        part: {kind: float(np.median(values)) for kind, values in kinds.items()}
        for part, kinds in times.items()
    }


def make_model(family, num_experts):
    name, options = FAMILIES[family]
    options = {
        "vocabulary_size": VOCABULARY,
        "num_layers": LAYERS,
        "num_query_heads": 4,
        "num_key_value_heads": 2,
        "hidden_dim": D,
        "num_experts": num_experts,
        "num_experts_per_token" if family == "Gemma 4" else "top_k": K,
        **options,
    }
    keras.utils.set_random_seed(0)
    backbone = getattr(keras_hub.models, f"{name}Backbone")(**options)
    model = getattr(keras_hub.models, f"{name}CausalLM")(backbone=backbone, preprocessor=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, sampler="greedy")
    model.optimizer.build(model.trainable_variables)
    return model


def first_mixture(model):
    """The first layer with experts, as a function of `[1, T, D]` tokens, and a layer that contains
    its weights. Gemma 4 has its router beside the experts.
    """
    layers = layers_within(model)
    (layer, *_) = [layer for layer in layers if sparse_class_of(layer) is not None]
    around = [other for other in layers if getattr(other, "moe_expert_bank", None) is layer]
    if not around:
        takes_training = "training" in layer._call_signature.parameters
        options = {"training": True} if takes_training else {}
        return lambda x: layer(x, **options)[0], [layer]
    router = around[0].moe_router
    return lambda x: layer(x[0], router(x)), [router, layer]


def runners(model, mixture):
    """Functions without arguments that run the parts with the current evaluation of the experts,
    `{part: function}`. The first calls trace them.
    """
    rng = np.random.default_rng(0)
    words = rng.integers(0, VOCABULARY, [SENTENCES, STEPS + 1]).astype("int32")
    batch = {"token_ids": words[:, :-1], "padding_mask": np.ones([SENTENCES, STEPS], "int32")}
    if "position_ids" in model.input:
        batch["position_ids"] = np.broadcast_to(np.arange(STEPS, dtype="int32"), [SENTENCES, STEPS])
    batches = iter(tf.data.Dataset.from_tensors((batch, words[:, 1:])).repeat())
    model.make_train_function(force=True)
    train, generate = model.train_function, model.make_generate_function()
    length = PROMPT + GENERATED
    prompt = {
        "token_ids": tf.constant(words[:1, :length]),
        "padding_mask": tf.range(length)[None] < PROMPT,
    }
    x = tf.constant(rng.standard_normal([1, SENTENCES * STEPS, D]).astype("float32"))
    return {
        "mixture": mixture_step(*mixture, x),
        "model": lambda: train(batches),
        "token": lambda: generate(prompt, stop_token_ids=None),
    }


def mixture_step(call, layers, x):
    """A function without arguments that runs a forward and backward pass of a mixture.

    Args:
        call: function of `[1, T, D]`.
        layers: the layers with its weights.
        x: `[1, T, D]`.
    """
    weights = [weight.value for layer in layers for weight in layer.trainable_weights]

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            loss = tf.add_n([tf.reduce_sum(y * x), *(each for m in layers for each in m.losses)])
        return tape.gradient(loss, [x, *weights])

    return lambda: step(x)


def warm(functions):
    """Calls functions twice, which traces them, and returns them."""
    for function in functions.values():
        function(), function()
    return functions


def print_row(row, header):
    if header:
        names = [f"{part}: dense | sparse | ratio" for part in PARTS]
        print("| family | experts |", " | ".join(names), "|")
        print("|---|---|" + "---|---|---|" * len(PARTS))
    cells = [
        f"{row[part]['dense']:,.3g} | {row[part]['sparse']:,.3g} | {row[part]['ratio']:.1f}"
        for part in PARTS
    ]
    print(f"| {row['family']} | {row['experts']} | " + " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
