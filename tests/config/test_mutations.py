"""Mutated configs either load, or fail with a few short lines that name key and location."""

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

TREES = [
    tree_of(pathlib.Path(config["path"]))
    for config in shipped_configs()
    if config["name"] in ("demo/language_model", "demo/translation", "demo/multilingual")
]
MAX_SECONDS = 10  # CPU seconds per config


def load_or_check_error(folder, text):
    """The `Config` of a text. If it is invalid, checks the error message and returns `None`."""
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    start = time.process_time()
    try:
        config = load_config(path)
    except ConfigError as error:
        check_message(str(error))
        return None
    finally:
        assert time.process_time() - start < MAX_SECONDS, text[:1000]
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config
    return config


def check_message(message):
    """Each line names a file and a line, or a key. None is long or has control characters."""
    lines = message.split("\n")
    assert len(lines) <= 21
    for line in lines:
        assert len(line) < 1600 and line.isprintable(), line
        location = re.match(r"\S+\.yaml(:\d+)?: |[a-z_]+[.:\[]|… and more$", line)
        assert location, line
        assert not re.search(r"Traceback|object at 0x|<class|pydantic", line), line


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    st.sampled_from(TREES),
    st.lists(st.tuples(st.integers(0, 9999), st.sampled_from(CHANGES)), min_size=1, max_size=3),
)
def test_a_few_mutations(tmp_path, tree, mutations):
    load_or_check_error(tmp_path, mutated(tree, mutations))


@pytest.mark.slow
def test_two_thousand_mutations(tmp_path):
    generator = random.Random(0)
    trees = [tree_of(pathlib.Path(config["path"])) for config in shipped_configs()]
    valid = described = 0
    for index in range(2000):
        tree = generator.choice(trees) if index % 4 else generated(generator)
        config = load_or_check_error(tmp_path, mutated(tree, random_mutations(generator)))
        if config is None:
            continue
        valid += 1
        if valid % 10 == 0 and config.data.vocabulary.size:
            describe(tmp_path)
            described += 1
    assert valid > 200 and described > 20


def describe(folder):
    """Describes a valid config, or checks the error message."""
    try:
        assert description(*describe_config(folder / "config.yaml"))
    except ConfigError as error:
        check_message(str(error))
