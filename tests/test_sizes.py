"""Functions and files are small, and code for one kind of layer is in that layer's file."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_FUNCTION_LINES = 80  # docstring included
MAX_FILE_LINES = 350
SMALLER = {"tfmoe/layers/moe.py": 300, "tfmoe/gating/gate.py": 160}
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
    assert {name: n for name, n in lengths.items() if n > MAX_FUNCTION_LINES} == {}


def test_files():
    lengths = {
        named(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in [*FILES, *TEST_FILES]
    }
    too_long = {
        name: length
        for name, length in lengths.items()
        if length > SMALLER.get(name, MAX_FILE_LINES)
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


def checked_classes(tree):
    """Yields the names of classes in `isinstance` and `issubclass`."""
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


def test_no_type_checks_of_gates_layers_and_models():
    """Other files call methods, so that a new gate, layer or model needs no change in them."""
    checks = {
        named(path): name
        for path in FILES
        for name in checked_classes(tree_of(path))
        if KINDS.get(name, path) != path
    }
    assert checks == {}


def test_checked_classes():
    text = "isinstance(a, (MoE, layers.Lstm)); issubclass(b, int); isinstance(c, X | Y)"
    assert set(checked_classes(ast.parse(text))) >= {"MoE", "Lstm", "int", "X", "Y"}
    assert "MoE" in KINDS
