"""The order of the house: a package imports only from what stands to its left, at the head of its
files, and never in a circle.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From left to right; packages of one floor do not import each other.
FLOORS = [
    ["data_pipelines"],
    ["ops"],
    ["distribute"],
    ["gating", "optimizers"],
    ["layers"],
    ["models"],
    ["training", "analysis", "serving"],
    ["inspection"],
    ["config"],
    ["tasks"],
    ["cli"],
]
FLOOR = {package: number for number, floor in enumerate(FLOORS) for package in floor}
# Old names of modules, which import what took their place.
RENAMED = {"tfmoe/training/inspection.py", "tfmoe/training/expert_summaries.py"}
# Loaded where a function needs it. Packages of extras are loaded by `tfmoe.extras`.
LATE = {"tensorflow"}
# Modules beside the packages, which import none of these.
OUTSIDE = {"__version__", "extras"}


def allowed(package):
    """The packages that one may import."""
    left = {other for other, floor in FLOOR.items() if floor < FLOOR[package]}
    return left | {package}


def imports_of(path, root=ROOT):
    """Yields `(full name, whether it stands in a function)` of everything that a file imports. Of
    `from a.b import c` the name is `a.b.c`, whether c is a module or not.
    """
    package = inside(path, root)[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_checkers = {id(node) for block in type_checking(tree) for node in ast.walk(block)}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    late = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(tree):
        if id(node) in for_checkers:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, id(node) in late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", id(node) in late) for alias in node.names)


def type_checking(tree):
    """The statements `if TYPE_CHECKING:` of a module, whose imports never run."""
    return [
        node
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]


def inside(path, root=ROOT):
    """The parts of a file's path in the package, in which `data_pipelines/` is linked."""
    parts = path.relative_to(root).parts
    return parts if parts[0] == "tfmoe" else ("tfmoe", *parts)


def violations(path, root=ROOT):
    """What a file of tfmoe imports against the order."""
    parts = inside(path, root)
    if len(parts) == 2 or path.relative_to(root).as_posix() in RENAMED:
        return []  # tfmoe/__init__.py, tfmoe/__main__.py and tfmoe/extras.py stand outside
    imported = (name.split(".") for name, _ in imports_of(path, root))
    ours = {name[1] for name in imported if name[0] == "tfmoe" and len(name) > 1}
    return sorted(ours - allowed(parts[1]) - OUTSIDE)


FILES = sorted(ROOT.glob("tfmoe/**/*.py"))
EVERY_FILE = [*FILES, *sorted(ROOT.glob("data_pipelines/**/*.py"))]


def named(path):
    return path.relative_to(ROOT).as_posix()


def test_order():
    assert {named(path): violations(path) for path in EVERY_FILE if violations(path)} == {}


def test_the_folders_at_the_root_are_parts_of_the_package():
    for name in ("configs", "data_pipelines"):
        assert (ROOT / "tfmoe" / name).resolve() == ROOT / name
    bare = [
        named(path)
        for path in [*EVERY_FILE, *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
        for name, _ in imports_of(path)
        if name.split(".")[0] in ("configs", "data_pipelines")
    ]
    assert bare == []  # a second copy of the modules


def test_imports_stand_at_the_head():
    late = {
        (named(path), name.split(".")[0])
        for path in EVERY_FILE
        for name, in_function in imports_of(path)
        if in_function
    }
    assert {name for _, name in late} <= LATE, late


def test_what_stands_outside_imports_none_of_the_packages():
    assert [name for name, _ in imports_of(ROOT / "tfmoe/extras.py") if "tfmoe" in name] == []


def test_every_package_has_its_place():
    packages = {path.parent.name for path in ROOT.glob("tfmoe/*/*.py")}
    assert packages | {"data_pipelines"} == set(FLOOR)


def test_old_names_of_modules():
    from tfmoe.training.inspection.routing import RoutedText
    from tfmoe.training.inspection.table import routing_table

    from tfmoe import inspection
    from tfmoe.inspection import summaries
    from tfmoe.training.expert_summaries import ExpertSummaries
    from tfmoe.training.inspection import expert_use

    assert expert_use is inspection.expert_use
    assert RoutedText is inspection.RoutedText and routing_table is inspection.routing_table
    assert inspection.routing.__name__ == "tfmoe.inspection.routing"
    assert ExpertSummaries is summaries.ExpertSummaries


def module_name(path, root=ROOT):
    parts = inside(path.with_suffix(""), root)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph_of(paths, root=ROOT):
    """`{module: set of the modules of these files that it imports}`."""
    names = {module_name(path, root) for path in paths}

    def known(name):
        while name and name not in names:
            name = name.rpartition(".")[0]
        return name

    return {
        module_name(path, root): {known(name) for name, _ in imports_of(path, root)} - {""}
        for path in paths
    }


def circle_in(graph):
    """The modules of a circle of imports, in order; `[]` if there is none."""
    finished = set()

    def visit(module, path):
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in finished:
            for other in sorted(graph[module]):
                found = visit(other, [*path, module])
                if found:
                    return found
            finished.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


def test_no_circle():
    assert circle_in(graph_of(EVERY_FILE)) == []


def write(folder, files):
    paths = []
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths.append(path)
    return paths


def test_the_search_for_circles(tmp_path):
    files = {
        "tfmoe/a/__init__.py": "from tfmoe.a.b import x",
        "tfmoe/a/b.py": "import tfmoe.a.c",
        "tfmoe/a/c.py": "def f():\n    from tfmoe.a import x",
    }
    graph = graph_of(write(tmp_path, files), tmp_path)
    a, b, c = "tfmoe.a", "tfmoe.a.b", "tfmoe.a.c"
    assert graph == {a: {b}, b: {c}, c: {a}}
    assert circle_in(graph) == [a, b, c, a]
    assert circle_in({**graph, c: set()}) == []


@pytest.mark.parametrize(
    ("package", "statement", "found"),
    [
        ("ops", "from tfmoe.ops import routing", []),
        ("ops", "from tfmoe import gating", ["gating"]),
        ("ops", "import tfmoe.layers.moe", ["layers"]),
        ("ops", "from ..gating import gate", ["gating"]),
        ("ops", "from .routing import top_k_gates", []),
        ("ops", "def f():\n    from tfmoe.cli import main", ["cli"]),
        ("layers", "from tfmoe.gating.gate import Gate", []),
        ("gating", "from tfmoe.optimizers import WarmupInverseSqrt", ["optimizers"]),
        ("optimizers", "from tfmoe import layers", ["layers"]),
        ("config", "from tfmoe.optimizers import WarmupInverseSqrt", []),
        ("models", "from tfmoe.training.state import x", ["training"]),
        ("analysis", "from tfmoe.training.state import x", ["training"]),
        ("inspection", "from tfmoe.config import load_config", ["config"]),
    ],
)
def test_the_reading_of_imports(tmp_path, package, statement, found):
    (path,) = write(tmp_path, {f"tfmoe/{package}/module.py": statement})
    assert violations(path, tmp_path) == found


def test_imports_for_type_checkers_are_not_read(tmp_path):
    text = "if TYPE_CHECKING:\n    from tfmoe.cli import main\nimport os\n"
    (path,) = write(tmp_path, {"tfmoe/ops/module.py": text})
    assert list(imports_of(path, tmp_path)) == [("os", False)]


def test_the_reading_of_late_imports(tmp_path):
    text = "import os\nclass A:\n    def f(self):\n        import sys\n"
    (path,) = write(tmp_path, {"tfmoe/ops/module.py": text})
    assert set(imports_of(path, tmp_path)) == {("os", False), ("sys", True)}
