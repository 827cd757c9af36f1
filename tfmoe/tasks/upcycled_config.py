"""The config of an upcycled run: feed-forward blocks become mixtures."""

import difflib
import os
from collections.abc import Iterable
from typing import NamedTuple

from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.loader import validated
from tfmoe.config.model_schema import BLOCK_SECTIONS
from tfmoe.config.schema import Config
from tfmoe.config.tree import Origins
from tfmoe.tasks.new_run import block_places
from tfmoe.tasks.resume import differences

DEFAULT_K = 2
# Keys of a new mixture that `--set` may change. The others are those of the dense network.
FREE_KEYS = (
    "gate",
    "groups",
    "recompute",
    "capacity_factor",
    "evaluation_capacity_factor",
    "capacity_priority",
    "metrics",
    "expert_dropout",
)


class Upcycled(NamedTuple):
    """The config of an upcycled run.

    Attributes:
        config: the config.
        blocks: the `(list, index)` of each new mixture, such as `("blocks", 3)`.
    """

    config: Config
    blocks: list[tuple[str, int]]


def upcycled_config(
    config: Config,
    path: str | os.PathLike,
    experts: int,
    k: int | None,
    gate: str,
    blocks: str | None,
    restart: bool,
    overrides: Iterable[str],
) -> Upcycled:
    """Replaces feed-forward blocks of a config by mixtures.

    Args:
        config: the config of the dense run.
        path: its folder, for errors.
        experts, k, gate, blocks, restart, overrides: see `tfmoe.tasks.upcycle_run`.

    Raises:
        ValueError: an argument is out of range, or an override changes what the run was trained
            with.
    """
    if experts < 1:
        raise ValueError(f"--experts must be 1 or more, got {experts}")
    gate_tree = gate_of(gate, k, experts)
    chosen = chosen_blocks(config, path, blocks)
    tree = {**config.model_dump(), "paper": None}
    known = BLOCK_SECTIONS["moe"].model_fields.keys()
    for key, index in chosen:
        dense = tree["model"][key][index]
        network = {name: value for name, value in dense.items() if name in known}
        mixture = {"name": "moe", "num_experts": experts, "gate": gate_tree}
        tree["model"][key][index] = {**network, **mixture}
    before = validated(tree, Origins())
    after = validated(before.model_dump(), Origins(), overrides)
    check_overrides(before, after, chosen, restart)
    return Upcycled(after, chosen)


def gate_of(name, k, experts):
    """The tree of a gate: its name, and k if the gate has one."""
    if name not in GATE_SECTIONS:
        matches = difflib.get_close_matches(name, GATE_SECTIONS, n=1)
        hint = f"; did you mean {matches[0]}?" if matches else ""
        raise ValueError(f"--gate must be one of {', '.join(GATE_SECTIONS)}, got {name!r}{hint}")
    has_k = "k" in GATE_SECTIONS[name].model_fields
    if not has_k:
        if k is not None:
            raise ValueError(f"--k {k}: the gate {name} has no k; leave --k out")
        return {"name": name}
    k = min(DEFAULT_K, experts) if k is None else k
    if not 1 <= k <= experts:
        raise ValueError(f"--k must be from 1 to --experts {experts}, got {k}")
    return {"name": name, "k": k}


def chosen_blocks(config, path, blocks):
    """The `(list, index)` of the blocks to convert; `blocks` as for `upcycle_run`."""
    kinds = {
        place: getattr(config.model, place[0])[place[1]].name for place in block_places(config)
    }
    dense = [place for place, kind in kinds.items() if kind == "feed_forward"]
    if not dense:
        is_mixture = "moe" in kinds.values()
        raise ValueError(
            f"{path} has no feed_forward block to convert: its blocks are "
            f"{', '.join(kinds.values())}{' (it is a mixture already)' if is_mixture else ''}"
        )
    if blocks == "all":
        return dense
    if blocks is None:
        lists = dict.fromkeys(key for key, _ in dense)
        by_list = [[place for place in dense if place[0] == key] for key in lists]
        return [place for places in by_list for place in places[::-1][::2][::-1]]
    by_name = {f"{key}[{index}]": (key, index) for key, index in dense}
    if all(key == "blocks" for key, _ in dense):
        by_name |= {str(index): ("blocks", index) for _, index in dense}
    chosen = []
    for item in blocks.split(","):
        name = item.strip().removeprefix("model.")
        if name not in by_name:
            names = ", ".join(f"{key}[{index}]" for key, index in dense)
            raise ValueError(
                f"--blocks {item.strip()!r} is no feed_forward block of {path}: {names}"
            )
        chosen.append(by_name[name])
    return sorted(set(chosen), key=dense.index)


def check_overrides(before, after, chosen, restart):
    """Checks that overrides change nothing that the weights or the position in the text depend on.

    Raises:
        ValueError: naming the keys.
    """
    mixtures = [f"model.{key}[{index}]." for key, index in chosen]
    free = tuple(f"{mixture}{key}" for mixture in mixtures for key in FREE_KEYS)
    free += ("training.", "model.decoding.", "distribute.")
    fixed = () if restart else ("training.steps_per_epoch",)
    changed = [
        key
        for key in differences(before.model_dump(), after.model_dump())
        if not key.startswith(free) or key in fixed
    ]
    if changed and changed == list(fixed):
        raise ValueError(
            "--set cannot change training.steps_per_epoch without --restart: training goes on in "
            "the middle of the text"
        )
    if changed:
        raise ValueError(
            f"--set cannot change {', '.join(changed)}: the trained model depends on it. It can "
            "change training, distribute, model.decoding, and of the new mixtures "
            f"{', '.join(FREE_KEYS)}"
        )
