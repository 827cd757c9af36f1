"""Makes a mixture of a trained dense run (Komatsuzaki et al. 2023, "Sparse upcycling")."""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfmoe.config.builders import build_layer
from tfmoe.config.schema import Config
from tfmoe.layers.gate_inputs import GateInputs
from tfmoe.tasks.memory_check import check_new_model
from tfmoe.tasks.new_run import (
    block_places,
    compiled_model,
    convert_checkpoints,
    copy_files,
    costs,
    new_folder,
    next_command,
    trained_run,
    write_config,
)
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_vocabulary
from tfmoe.tasks.upcycled_config import Upcycled, upcycled_config
from tfmoe.training.conversions import upcycled
from tfmoe.training.transfer import Change

GATE_DEVIATION = 0.02  # of the fresh gate's weights
PROBES = 256  # random tokens that are routed to see whether weights sum to a constant


def upcycle_run(
    path: str | os.PathLike,
    out: str | os.PathLike,
    experts: int = 8,
    k: int | None = None,
    gate: str = "top_k",
    blocks: str | None = None,
    redrawn: float = 0.0,
    restart: bool = False,
    overrides: Iterable[str] = (),
) -> dict[str, Any]:
    """Makes a run whose feed-forward blocks are mixtures of a trained dense run.

    Every expert is a copy of the trained network, and the gate is drawn from a normal distribution
    of standard deviation 0.02. The rest is copied: the other weights, the optimizer's state, the
    step counter, the vocabulary and the history. The weights of a token must sum to a constant; the
    outputs of experts are divided by it, so the outputs of the new model are those of the dense
    one.

    Args:
        path: the folder of the dense run.
        out: the folder of the new run, which must not exist.
        experts: E, the number of experts of each mixture.
        k: the number of experts per token; `None` for 2, or for the number of a gate without a
            choice.
        gate: name of the gate.
        blocks: the blocks to convert, separated by commas: `"1,3"`, `"encoder[1],decoder[3]"`, or
            `"all"` for every feed-forward block; `None` for every second one, from the last one of
            each list.
        redrawn: fraction of the hidden units of each expert whose weights are drawn again. The
            outputs then differ from those of the dense model.
        restart: whether training starts again at step 0, with a new optimizer.
        overrides: values of `--set` for the config of the new run.

    Returns:
        Dictionary: `run`, `made_from`, `blocks` (keys of the config), `experts`, `k`, `gate`,
        `step`, `epochs` (in the config of the new run), `ops_per_timestep` and `parameters`, each
        `{"before", "after"}`, and `resume`, the command that goes on.

    Raises:
        FileNotFoundError: if the folder has no run, or no saved state yet.
        FileExistsError: if the new folder exists.
        BlockingIOError: if a process trains in the run's folder.
        ValueError: if an argument is out of range, the run has no feed-forward block, or the
            weights of the gate do not sum to a constant.
    """
    if not 0 <= redrawn <= 1:
        raise ValueError(f"--redrawn must be from 0 to 1, got {redrawn}")
    run, config = trained_run(path, out)
    new = upcycled_config(config, path, experts, k, gate, blocks, restart, overrides)
    vocabulary = load_vocabulary(run, task_of(config))
    check_new_model(new.config, len(vocabulary))
    scales = [scale_of(new.config, *block) for block in new.blocks]
    old_model = compiled_model(config, len(vocabulary))
    model = compiled_model(new.config, len(vocabulary))
    seed = config.training.seed
    changes: list[Change] = []
    for (dense, mixture), scale in zip(layer_pairs(old_model, model, new), scales, strict=True):
        seeds = (seed, len(changes))
        initialize_gate(mixture, seeds)
        changes.append(upcycled(dense, mixture, scale, redrawn, seeds))
    keys = [f"model.{key}[{index}]" for key, index in new.blocks]
    made = {"command": "upcycle", "run": str(run.path), "blocks": keys, "redrawn": redrawn}
    with new_folder(out) as new_run:
        state = convert_checkpoints(run, new_run, old_model, model, changes, restart, not redrawn)
        copy_files(run, new_run, {**made, "step": state.step}, history=not restart)
        write_config(new_run, new.config)
    return {
        "run": str(out),
        "made_from": str(path),
        "blocks": keys,
        "experts": experts,
        "k": int(changes[0].new.gate.num_selected),
        "gate": gate_name(new),
        "step": state.step,
        "epochs": new.config.training.epochs,
        **costs(old_model, model),
        "resume": next_command(out, new.config, state),
    }


def gate_name(new: Upcycled) -> str:
    """The gate of the first new mixture, which `--set` can change."""
    key, index = new.blocks[0]
    return getattr(new.config.model, key)[index].gate.name


def layer_pairs(old_model, model, new: Upcycled) -> list:
    """The `(feed-forward network, mixture)` of the converted blocks."""
    blocks = zip(block_places(new.config), old_model.blocks, model.blocks, strict=True)
    return [(old.layer, mixture.layer) for place, old, mixture in blocks if place in new.blocks]


def scale_of(config: Config, key: str, index: int) -> float:
    """The sum of a token's weights in a mixture.

    Args:
        config: the config of the new run.
        key: the list of blocks, such as `"blocks"`.
        index: the mixture's index in it.

    Raises:
        ValueError: if the sum depends on the token.
    """
    section = getattr(config.model, key)[index]
    layer = build_layer(section, "mixture")
    width = config.model.d_model
    layer.gate.build((None, width))
    initialize_gate(layer, (0,))
    generator = np.random.default_rng(0)
    lengths = np.logspace(-2, 1, PROBES)[:, None]  # the tokens of a model can be short or long
    tokens = tf.cast(lengths * generator.normal(size=[PROBES, width]), layer.variable_dtype)
    routing = GateInputs(tokens, tf.range(PROBES)).route(layer.gate)
    assigned, _, weights = routing.assignments.by_token()
    sums = tf.math.unsorted_segment_sum(weights, assigned, PROBES).numpy()
    if np.ptp(sums) > 1e-4 * sums.max():
        raise ValueError(
            f"--gate {section.gate.name}: the weights of a token sum to {sums.min():.3g} to "
            f"{sums.max():.3g}, so the outputs would not be those of the dense model. Use a gate "
            "whose weights have a constant sum: top_k (with renormalize), noisy_top_k, "
            "bias_balanced, gshard or softmax"
        )
    return float(sums.mean())


def initialize_gate(mixture: keras.Layer, seeds: Sequence[int]) -> None:
    """Draws the matrices of a mixture's gate from a normal distribution of deviation 0.02."""
    generator = np.random.default_rng(seeds)
    for weight in mixture.gate.weights:
        if weight.name == "gate_kernel":
            weight.assign(generator.normal(0, GATE_DEVIATION, weight.shape))
