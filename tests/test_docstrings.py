"""The examples of docstrings must run, each by itself, with the names that users import."""

import doctest
import importlib
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmoe

PACKAGES = ["distribute", "gating", "inspection", "layers", "models", "optimizers"]


def names():
    """What an example may use: the libraries, and what `from tfmoe.PACKAGE import NAME` gives."""
    found = {"keras": keras, "np": np, "tf": tf}
    for name in PACKAGES:
        package = importlib.import_module(f"tfmoe.{name}")
        found |= {each: getattr(package, each) for each in package.__all__}
    return found


def examples():
    """The docstrings of public modules, classes and functions that have examples."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for info in pkgutil.walk_packages(tfmoe.__path__, "tfmoe."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        module = importlib.import_module(info.name)
        for test in finder.find(module, info.name):
            is_public = not any(part.startswith("_") for part in test.name.split("."))
            if test.examples and is_public:
                yield test


def run(test):
    """What went wrong in an example, as text; "" if nothing did."""
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
def test_the_reading_of_examples(text, message):
    found = run(doctest.DocTestParser().get_doctest(text, {}, "example", None, None))
    assert message in found and bool(found) == bool(message)
