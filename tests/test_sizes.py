"""Small parts: a reader should see a function, and what a layer or a gate is, at a glance."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "tfmoe"
PACKAGES = ("ops", "distribute", "gating", "layers")
MOST_LINES = 80  # of a function
MOST_LINES_OF_FILE = {"layers/moe.py": 180, "gating/gate.py": 120}


def functions(path):
    """Names and lengths of a file's functions, their inner ones included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            yield node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("package", PACKAGES)
def test_functions(package):
    lengths = {
        f"{path.name}: {name}": length
        for path in (ROOT / package).glob("*.py")
        for name, length in functions(path)
    }
    assert lengths
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


@pytest.mark.parametrize("path", MOST_LINES_OF_FILE)
def test_files(path):
    assert len((ROOT / path).read_text().splitlines()) <= MOST_LINES_OF_FILE[path]
