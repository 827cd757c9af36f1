"""The order of the house: a package imports only from what stands to its left."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ORDER = ["ops", "distribute", "gating", "layers", "models"]
# `inspection` and `config` still import from `tasks`, and `inspection` from `cli`.
ORDER += ["training", "analysis", "serving", "inspection", "config", "tasks", "cli"]
ALLOWED = {package: set(ORDER[: i + 1]) for i, package in enumerate(ORDER)}
ALLOWED["optimizers"] = {"ops", "distribute", "optimizers"}
for package in ORDER[5:]:
    ALLOWED[package].add("optimizers")
ALLOWED["inspection"] |= {"tasks", "cli"}


def imported_modules(path, root=ROOT):
    """Full names of everything that a file imports, at its head or within a function. Of
    `from a.b import c` that is `a.b.c`, whether c is a module or not."""
    package = path.relative_to(root).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def violations(path, root=ROOT):
    """What a file of tfmoe imports against the order."""
    parts = path.relative_to(root).parts
    if len(parts) == 2:
        return []  # tfmoe/__init__.py and tfmoe/__main__.py stand outside
    imported = (name.split(".") for name in imported_modules(path, root))
    ours = {name[1] for name in imported if name[0] == "tfmoe" and len(name) > 1}
    return sorted(ours - ALLOWED[parts[1]] - {"__version__"})


FILES = sorted(ROOT.glob("tfmoe/**/*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_order(path):
    assert violations(path) == []


def test_every_package_has_its_place():
    packages = {path.parts[-2] for path in ROOT.glob("tfmoe/*/__init__.py")}
    assert {"ops", "gating", "layers", "models", "optimizers"} <= packages <= set(ALLOWED)


def test_data_pipelines_and_configs_know_nothing_of_tfmoe():
    for path in [*ROOT.glob("data_pipelines/**/*.py"), *ROOT.glob("configs/**/*.py")]:
        for name in imported_modules(path):
            assert name.split(".")[0] != "tfmoe", f"{path} imports {name}"


@pytest.mark.parametrize(
    ("package", "statement", "found"),
    [
        ("ops", "from tfmoe.ops import routing", []),
        ("ops", "from tfmoe import gating", ["gating"]),
        ("ops", "import tfmoe.layers.moe", ["layers"]),
        ("ops", "from ..gating import base", ["gating"]),
        ("ops", "from .routing import top_k_gates", []),
        ("ops", "def f():\n    from tfmoe.cli import main", ["cli"]),
        ("layers", "from tfmoe.gating.base import Gate", []),
        ("layers", "from tfmoe.optimizers import WarmupInverseSqrt", ["optimizers"]),
        ("optimizers", "from tfmoe import layers", ["layers"]),
        ("config", "from tfmoe.optimizers import WarmupInverseSqrt", []),
        ("models", "from tfmoe.training.losses import x", ["training"]),
    ],
)
def test_the_reading_of_imports(tmp_path, package, statement, found):
    path = tmp_path / "tfmoe" / package / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(statement)
    assert violations(path, tmp_path) == found
