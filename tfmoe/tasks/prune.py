"""Removes the experts of a trained run that contribute least (Lasby et al. 2025, "REAP")."""

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfmoe.config.builders import build_layer
from tfmoe.config.loader import validated
from tfmoe.config.model_schema import block_prefix
from tfmoe.config.schema import Config
from tfmoe.config.tree import Origins
from tfmoe.inspection.saliency import expert_saliency
from tfmoe.layers.mixture_layer import mixtures_of
from tfmoe.tasks.language_modeling import evaluate_perplexity
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
from tfmoe.tasks.progress import verbosity
from tfmoe.tasks.registry import task_of
from tfmoe.tasks.runs import load_vocabulary
from tfmoe.training.callbacks import Progress
from tfmoe.training.conversions import pruned
from tfmoe.training.state import load_weights


class Place(NamedTuple):
    """A mixture to prune.

    Attributes:
        key: the list of blocks in the config, such as `"blocks"`.
        position: the block's index in it.
        experts: the number of experts.
        kept: the number of experts to keep.
    """

    key: str
    position: int
    experts: int
    kept: int

    def __str__(self):
        return f"model.{self.key}[{self.position}]"

    @property
    def layer(self):
        """The name of the mixture."""
        return f"{block_prefix(self.key)}moe_{self.position}"


def prune_run(
    path: str | os.PathLike,
    out: str | os.PathLike,
    keep: float = 0.5,
    data: Sequence[str] | None = None,
    direction: str | None = None,
) -> dict[str, Any]:
    """Makes a run with the most salient experts of each mixture of a trained run.

    The saliency of expert j is the mean over the tokens that select it of `g_j(x)·‖E_j(x)‖`, with
    the best weights. The weights of the other experts, their columns of the gate and their slots of
    the optimizer are removed; the rest of the run is copied. The perplexity is that on the test
    text, or on the validation text if there is none.

    Args:
        path: the folder of the run.
        out: the folder of the new run, which must not exist.
        keep: fraction of the experts to keep, 0 < keep <= 1; the number is rounded.
        data: paths, globs or prefixes of the files to measure the saliency on; `None` for the
            validation text.
        direction: a direction of a multilingual model, `"en-fr"`, to measure it on.

    Returns:
        Dictionary: `run`, `made_from`, `mixtures` (`{key of the config: {"experts", "kept" (list of
        experts), "saliency" (of all experts)}}`), `perplexity`, `ops_per_timestep` and
        `parameters`, each `{"before", "after"}`, `evaluated_on`, and `resume`, the command that
        goes on.

    Raises:
        FileNotFoundError: if the folder has no run, or no weights yet.
        FileExistsError: if the new folder exists.
        BlockingIOError: if a process trains in the run's folder.
        ValueError: if an argument is out of range, there is no text, or the run has no mixture that
            can be pruned.
    """
    if not 0 < keep <= 1:
        raise ValueError(f"--keep must be more than 0 and at most 1, got {keep}")
    run, config = trained_run(path, out)
    places = places_to_prune(config, path, keep)
    new_config = pruned_config(config, places)
    task = task_of(config)
    files, test, evaluated_on = texts(task, path, data, direction)
    vocabulary = load_vocabulary(run, task)
    old_model = compiled_model(config, len(vocabulary))
    load_weights(old_model, run.checkpoints, "best")
    with new_folder(out) as new_run:
        batches = task.batches(files, vocabulary)
        saliency = expert_saliency(old_model, batches, [place.layer for place in places])
        kept = {place: most_salient(saliency[place.layer], place.kept) for place in places}
        mixtures = {
            str(place): {
                "experts": place.experts,
                "kept": kept[place].tolist(),
                "saliency": saliency[place.layer].tolist(),
            }
            for place in places
        }
        test_batches = counted(task.batches(test, vocabulary))
        before = perplexity(old_model, test_batches)
        model = compiled_model(new_config, len(vocabulary))
        old_layers, layers = mixtures_of(old_model), mixtures_of(model)
        changes = [pruned(old_layers[p.layer], layers[p.layer], kept[p]) for p in places]
        state = convert_checkpoints(run, new_run, old_model, model, changes, keeps_best=keep == 1)
        made = {"command": "prune", "run": str(run.path), "mixtures": mixtures}
        copy_files(run, new_run, made)
        load_weights(model, new_run.checkpoints, "best")
        after = perplexity(model, test_batches)
        write_config(new_run, new_config)
    return {
        "run": str(out),
        "made_from": str(path),
        "mixtures": mixtures,
        "perplexity": {"before": before, "after": after},
        "evaluated_on": evaluated_on,
        **costs(old_model, model),
        "resume": next_command(out, new_config, state),
    }


def perplexity(model, batches):
    """The perplexity of a compiled model on the batches of a text."""
    return evaluate_perplexity(model, batches, [Progress()], verbosity())["perplexity"]


def counted(batches: tf.data.Dataset) -> tf.data.Dataset:
    """A dataset whose number of batches Keras knows. Reads it once."""
    number = sum(1 for _ in batches)
    return batches.apply(tf.data.experimental.assert_cardinality(number))


def texts(task, path, data, direction):
    """The files to measure the saliency on, the files to evaluate on, and `"test"` or `"valid"`."""
    splits = task.splits
    files = task.find_files(data, direction) if data or direction else splits.valid
    if not files:
        raise ValueError(
            f"{path} has no validation text (data.valid in its config): give a text with --data"
        )
    if splits.test:
        return files, splits.test, "test"
    return files, splits.valid or files, "valid" if splits.valid else "data"


def places_to_prune(config, path, keep):
    """The `Place`s of the mixtures of a config.

    Raises:
        ValueError: if there is none, or one of them cannot be pruned.
    """
    places = []
    for key, index in block_places(config):
        block = getattr(config.model, key)[index]
        if block.name == "moe":
            kept = max(1, round(keep * block.num_experts))
            place = Place(key, index, block.num_experts, kept)
            check_prunable(block, place, config.model.d_model, keep)
            places.append(place)
    if not places:
        kinds = ", ".join(getattr(config.model, key)[i].name for key, i in block_places(config))
        raise ValueError(f"{path} has no moe block to prune: its blocks are {kinds}")
    return places


def check_prunable(block, place, width, keep):
    """Raises a ValueError if a mixture cannot lose its least salient experts."""
    if block.groups is not None:
        raise ValueError(
            f"{place} is hierarchical (groups={block.groups}): only flat mixtures can be pruned"
        )
    if getattr(block.gate, "expert_groups", None) is not None:
        raise ValueError(
            f"{place}.gate has expert_groups={block.gate.expert_groups}, which need all experts: "
            "only gates without expert groups can be pruned"
        )
    gate = build_layer(block, "mixture").gate
    gate.build((None, width))
    if not gate.weights:
        raise ValueError(
            f"{place} has the gate {block.gate.name}, which is not learned: with fewer experts it "
            "would send tokens to others. Only learned gates can be pruned"
        )
    k = getattr(block.gate, "k", 1)
    if k > place.kept:
        raise ValueError(
            f"--keep {keep:g} keeps {place.kept} of the {place.experts} experts of {place}, but a "
            f"token selects k={k}: --keep must be at least {k / place.experts:.3g}"
        )


def pruned_config(config: Config, places: Sequence[Place]) -> Config:
    """The config with fewer experts."""
    tree = {**config.model_dump(), "paper": None}
    for place in places:
        tree["model"][place.key][place.position]["num_experts"] = place.kept
    return validated(tree, Origins())


def most_salient(saliency, number):
    """The indices of the largest values in ascending order; the lower indices in a tie."""
    return np.sort(np.argsort(-saliency, kind="stable")[:number])


def prune_table(result: dict) -> str:
    """The result of `prune_run` as a table.

    Args:
        result: what `prune_run` returned.
    """
    experts = {
        f"experts of {place}": {"before": mixture["experts"], "after": len(mixture["kept"])}
        for place, mixture in result["mixtures"].items()
    }
    figures = {
        **experts,
        "parameters": result["parameters"],
        "ops_per_timestep": result["ops_per_timestep"],
    }
    rows = {name: [f"{each:,}" for each in figure.values()] for name, figure in figures.items()}
    perplexity = result["perplexity"].values()
    rows[f"perplexity ({result['evaluated_on']})"] = [f"{each:.2f}" for each in perplexity]
    width = max(map(len, rows))
    lines = {"": ["before", "after"], **rows}.items()
    return "\n".join(f"{name:<{width}} {before:>12} {after:>12}" for name, (before, after) in lines)
