"""Mutations of shipped and of generated configs, to test error handling."""

import copy

from tfmoe.config.data_schema import DATA_SECTIONS
from tfmoe.config.distribute_schema import STRATEGY_SECTIONS
from tfmoe.config.gates import GATE_SECTIONS
from tfmoe.config.model_schema import BLOCK_SECTIONS
from tfmoe.config.training_schema import OPTIMIZER_SECTIONS, SCHEDULE_SECTIONS
from tfmoe.config.yaml_text import dump, parse

NUMBERS = ["1", "2", "3", "4", "8", "16", "48", "256", "1000", "65536", "1000000000", "0"]
FRACTIONS = ["0", "0.0", "0.1", "0.5", "1", "1.0", "1e-3", "1e-9", "2.0", "1000"]
NAMES = [
    *BLOCK_SECTIONS, *GATE_SECTIONS, *OPTIMIZER_SECTIONS, *SCHEDULE_SECTIONS,
    *DATA_SECTIONS["language"],
    *DATA_SECTIONS["parallel"],
    *STRATEGY_SECTIONS, "language_model", "translation",
]  # fmt: skip
TEXTS = ["null", "relu", "gelu", "orthogonal", "he_normal", "de", "en-fr", "*.txt", "[a, b]", "é"]
# YAML that replaces a value.
UNUSUAL = [
    "!!bool maybe", "!!int ''", "!!timestamp x", "!!timestamp 2017-01-23", "!!float .", "!!null x",
    "!!set {a}", "!!omap [a]", "!!str [a]", "!mine 3", "!!python/name:os.system ''", "!!binary x",
    '"\\U00FFFFFF"', '"\\ud800"', '"\\e[31m"', '"\\u202e"', '"\\0"', "|\n  a\n  b\n",
    "[a, 3]", "[1, [2]]", "[]", "{}", "{a: b}", "{name: [a]}", "{a: 1, a: 2}", "{1: 2}", "''", "/",
    "&a [*a]", "*b", "[" * 60, "[" * 40 + "]" * 40, "[" * 2000 + "]" * 2000, "{<<: {a: 1}}",
    "x" * 100_000, "../..", "~", "\x1b[2J", "\x00", "-1", "010", "0x10", "9" * 5000, "-0.5", "1e39",
    str(2**31), str(2**62), str(2**63), str(2**70), "-" + str(2**70), "1e308", "1e400", "1e-320",
    ".nan", ".inf", "-.inf", "{name: moe}", "{name: attention_lstm, units: 8}",
]  # fmt: skip
# Other changes of a value, a key, or the text of the file.
OPERATIONS = [
    "similar",
    "delete",
    "rename",
    "repeat",
    "swap",
    "wrap",
    "text: cut",
    "text: double",
    "text: \t",
]
CHANGES = [*OPERATIONS, *NUMBERS, *NAMES, *TEXTS, *UNUSUAL]
PLACEHOLDER = "VALUE-{}-HERE"
REQUIRED = {
    "units": 8, "hidden_units": 8, "num_heads": 2, "num_experts": 4, "steps": 9, "train": "a*",
    "root": "x",
}  # fmt: skip
LANGUAGE = DATA_SECTIONS["language"]


def mutated(tree, mutations):
    """The text of a config with mutations.

    Args:
        tree: of a config.
        mutations: list of `(number, change)`: the number selects the location, `change` is one of
            `CHANGES`.
    """
    tree, values, text_changes = copy.deepcopy(tree), [], []
    for number, change in mutations:
        if change.startswith("text: "):
            text_changes.append((number, change.removeprefix("text: ")))
            continue
        locations = list(locations_of(tree))
        if not locations:
            break
        parent, key = locations[number % len(locations)]
        if change == "similar":
            change = similar_value(key, parent[key], number)
        if change in OPERATIONS:
            other = locations[number // len(locations) % len(locations)]
            operate(change, parent, key, *other)
        else:
            parent[key] = PLACEHOLDER.format(len(values))
            values.append(change)
    text = dump(tree)
    for index, value in enumerate(values):
        text = text.replace(PLACEHOLDER.format(index), value)
    for number, change in text_changes:
        at = number % (len(text) + 1)
        text = {"cut": text[:at], "double": text[:at] * 2}.get(
            change, text[:at] + change + text[at:]
        )
    return text


def similar_value(key, value, number):
    """YAML of a value of the same type."""
    if isinstance(value, bool):
        return str(not value).lower()
    if isinstance(value, (dict, list)):
        return "repeat"
    kinds = {int: NUMBERS, float: FRACTIONS}
    known = NAMES if key == "name" else kinds.get(type(value), TEXTS)
    return known[number // 7 % len(known)]


def random_mutations(random):
    """Mutations for `mutated`: one or two, most of them small.

    Args:
        random: a `random.Random`.
    """
    changes = [random.choice(["similar", "similar", "delete", random.choice(CHANGES)])]
    changes += ["similar"] * random.randint(0, 1)
    return [(random.randrange(10**6), change) for change in changes]


def locations_of(tree):
    """Yields `(mapping or list, key or index)` of every value in a tree."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree)):
        yield tree, key
        if isinstance(value, (dict, list)):
            yield from locations_of(value)


def operate(change, parent, key, other, other_key):
    """Applies one of `OPERATIONS`."""
    if change == "delete":
        del parent[key]
    elif change == "rename" and isinstance(parent, dict):
        parent[f"{key}x"] = parent.pop(key)
    elif change == "repeat" and isinstance(parent, list):
        parent += parent[key : key + 1] * 3
    elif change == "wrap":
        parent[key] = [parent[key]]
    elif change == "swap":
        first, second = copy.deepcopy(parent[key]), copy.deepcopy(other[other_key])
        parent[key], other[other_key] = second, first


def generated(random):
    """A config of random registered blocks, gates, optimizers and corpora.

    Args:
        random: a `random.Random`.
    """

    def section(sections):
        name = random.choice(list(sections))
        fields = sections[name].model_fields
        required = {key: value for key, value in REQUIRED.items() if key in fields}
        optional = {
            key: info.default
            for key, info in fields.items()
            if type(info.default) in (int, float) and random.random() < 0.3
        }
        return {"name": name, **optional, **required}

    block_sections = {**BLOCK_SECTIONS}
    del block_sections["attention_lstm"], block_sections["cross_attention"]
    blocks = [section(block_sections) for _ in range(random.randint(1, 3))]
    for block in blocks:
        if block["name"] == "moe":
            block["gate"] = section(GATE_SECTIONS)
    optimizer = section(OPTIMIZER_SECTIONS)
    optimizer["schedule"] = section(SCHEDULE_SECTIONS)
    return {
        "model": {"d_model": 8, "blocks": blocks},
        "data": {**section(LANGUAGE), "vocabulary": {"size": 100}, "batch_tokens": 64},
        "training": {"optimizer": optimizer, "seed": 1},
    }


def tree_of(path):
    """The tree of a config file, not merged with its base; `base` as an absolute path."""
    tree, _ = parse(path.read_bytes(), str(path))
    if "base" in tree:
        tree["base"] = str((path.parent / tree["base"]).resolve())
    return tree
