"""Whatever a config says, it is used, or refused in a few short lines that name key and place."""

import pathlib
import random
import re
import time

import pytest
from config.mutations import CHANGES, generated, mutated, random_mutations, tree_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tfmoe.config import ConfigError, dump_config, load_config, shipped_configs
from tfmoe.tasks.describe import describe_config, description

SOME = [
    tree_of(pathlib.Path(config["path"]))
    for config in shipped_configs()
    if config["name"] in ("demo/language_model", "demo/translation", "demo/multilingual")
]
MOST_SECONDS = 10  # of a processor, for one config


def loaded(folder, text):
    """The `Config` of a text, or `None` if it is refused, as it should be."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    begun = time.process_time()
    try:
        config = load_config(path)
    except ConfigError as error:
        check_message(str(error))
        return None
    finally:
        assert time.process_time() - begun < MOST_SECONDS, text[:1000]
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    return config


def check_message(message):
    """Each line has a file and line, or a key; none is long, or does more than to show."""
    lines = message.split("\n")
    assert len(lines) <= 21
    for line in lines:
        assert len(line) < 1600 and line.isprintable(), line
        named = re.match(r"\S+\.yaml(:\d+)?: |[a-z_]+[.:\[]|… and more$", line)
        assert named, line
        assert not re.search(r"Traceback|object at 0x|<class|pydantic", line), line


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.sampled_from(SOME),
    st.lists(st.tuples(st.integers(0, 9999), st.sampled_from(CHANGES)), min_size=1, max_size=3),
)
def test_a_few_mutations(tmp_path, tree, mutations):
    loaded(tmp_path, mutated(tree, mutations))


@pytest.mark.slow
def test_two_thousand_mutations(tmp_path):
    draw = random.Random(0)
    trees = [tree_of(pathlib.Path(config["path"])) for config in shipped_configs()]
    used = described = 0
    for number in range(2000):
        tree = draw.choice(trees) if number % 4 else generated(draw)
        config = loaded(tmp_path, mutated(tree, random_mutations(draw)))
        if config is None:
            continue
        used += 1
        if used % 10 == 0 and config.data.vocabulary.size:
            describe(tmp_path)
            described += 1
    assert used > 200 and described > 20


def describe(folder):
    """Counts what a config needs that can be used."""
    try:
        assert description(*describe_config(folder / "config.yaml"))
    except ConfigError as error:
        check_message(str(error))
