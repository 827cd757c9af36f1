"""Small parts: a reader should see a function at a glance, and what a kind of layer does in its own
file.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 80  # of a function, its docstring included
MOST_LINES_OF_FILE = 350
SMALLER = {"tfmoe/layers/moe.py": 180, "tfmoe/gating/gate.py": 120}
FILES = [
    path
    for folder in ("tfmoe", "data_pipelines", "benchmarks")
    for path in sorted((ROOT / folder).glob("**/*.py"))
]
TEST_FILES = sorted((ROOT / "tests").glob("**/*.py"))


def named(path):
    return path.relative_to(ROOT).as_posix()


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def test_functions():
    lengths = {
        f"{named(path)}: {node.name}": node.end_lineno - node.lineno + 1
        for path in FILES
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef)
    }
    assert len(lengths) > 1000
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_files():
    lengths = {
        named(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*FILES, *TEST_FILES]
    }
    too_long = {
        name: length
        for name, length in lengths.items()
        if length > SMALLER.get(name, MOST_LINES_OF_FILE)
    }
    assert too_long == {} and set(SMALLER) <= set(lengths)


def classes_of(paths):
    """`{name of a class: the file that defines it}`."""
    return {
        node.name: path
        for path in paths
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ClassDef)
    }


def questions(tree):
    """Yields the names of classes that `isinstance` and `issubclass` ask for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in (
            "isinstance",
            "issubclass",
        ):
            for part in ast.walk(node.args[1]):
                if isinstance(part, (ast.Name, ast.Attribute)):
                    yield getattr(part, "id", None) or part.attr


KINDS = classes_of(
    path
    for folder in ("gating", "layers", "models")
    for path in (ROOT / "tfmoe" / folder).glob("*.py")
)


def test_nobody_asks_for_the_kind_of_a_layer():
    """What kinds of gates, layers and models differ in, they say themselves."""
    asked = {
        named(path): name
        for path in FILES
        for name in questions(tree_of(path))
        if KINDS.get(name, path) != path
    }
    assert asked == {}


def test_the_reading_of_questions():
    text = "isinstance(a, (MoE, layers.Lstm)); issubclass(b, int); isinstance(c, X | Y)"
    assert set(questions(ast.parse(text))) >= {"MoE", "Lstm", "int", "X", "Y"}
    assert "MoE" in KINDS
