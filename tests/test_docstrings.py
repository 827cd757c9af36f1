"""The examples of docstrings run, each on its own, with the names that users import."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe
from tfmoe.extras import is_installed, optional

PACKAGES = [
    "classic", "distribute", "gating", "huggingface", "inspection", "keras_hub", "layers", "models",
    "optimizers", "testing",
]  # fmt: skip


def names():
    """The names that an example may use: libraries, and public names of `PACKAGES`."""
    globals_of_examples = {"keras": keras, "np": np, "tf": tf}
    globals_of_examples["keras_hub"] = optional("keras_hub")
    for package_name in PACKAGES:
        package = importlib.import_module(f"tfmoe.{package_name}")
        globals_of_examples |= {name: getattr(package, name) for name in package.__all__}
    return globals_of_examples


def examples():
    """Yields the docstrings of public modules, classes and functions that have examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(tfmoe.__path__, "tfmoe."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        if info.name.startswith("tfmoe.keras_hub.") and not is_installed("keras_hub"):
            continue
        module = importlib.import_module(info.name)
        for test in finder.find(module, info.name):
            is_public = not any(part.startswith("_") for part in test.name.split("."))
            if test.examples and is_public:
                yield test


def run(test):
    """Runs an example. Returns the error as text, "" if it succeeds."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    messages = []
    test.globs = names()
    doctest.DocTestRunner(verbose=False, optionflags=flags).run(test, out=messages.append)
    return "".join(messages)


EXAMPLES = list(examples())


def test_examples_are_found():
    assert {"tfmoe.layers.moe.MoE", "tfmoe.optimizers.factored_adam.FactoredAdam"} <= {
        test.name for test in EXAMPLES
    }


@pytest.mark.parametrize("test", EXAMPLES, ids=lambda test: test.name)
def test_example(test):
    assert run(test) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">>> MoE(num_experts=0, hidden_units=3)", "num_experts must be an integer"),
        (">>> model.fit()", "name 'model' is not defined"),
        (">>> FeedForward(4).depth\n2", "Expected:\n    2\nGot:\n    1"),
        (">>> FeedForward(4).depth\n1", ""),
    ],
)
def test_running_of_examples(text, message):
    error = run(doctest.DocTestParser().get_doctest(text, {}, "example", None, None))
    assert message in error and bool(error) == bool(message)
