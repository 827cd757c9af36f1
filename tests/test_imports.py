"""A package imports only packages of lower layers, at the head of its files, without cycles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the lowest layer to the highest; packages of one layer do not import each other.
LAYERS = [
    ["data_pipelines"],
    ["ops"],
    ["distribute"],
    ["gating", "optimizers"],
    ["layers"],
    ["models"],
    ["training", "analysis", "serving", "classic", "huggingface", "keras_hub"],
    ["inspection", "testing"],
    ["config"],
    ["tasks"],
    ["cli"],
]
LAYER = {package: number for number, layer in enumerate(LAYERS) for package in layer}
# Old names of modules, which import the new modules.
RENAMED = {"tfmoe/training/inspection.py", "tfmoe/training/expert_summaries.py"}
# May be imported in functions. `tfmoe.extras` imports the packages of extras.
LATE = {"tensorflow"}
# Modules next to the packages, which import none of them.
OUTSIDE = {"__version__", "extras"}


def allowed(package):
    """The packages that a package may import."""
    left = {other for other, layer in LAYER.items() if layer < LAYER[package]}
    return left | {package}


def imports_of(path, root=ROOT):
    """Yields `(full name, whether in a function)` of all imports of a file. For `from a.b import c`
    the name is `a.b.c`, whether c is a module or not.
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
    """The packages that a file of tfmoe imports against the order."""
    parts = inside(path, root)
    if len(parts) == 2 or path.relative_to(root).as_posix() in RENAMED:
        return []  # tfmoe/__init__.py, tfmoe/__main__.py and tfmoe/extras.py are not in a package
    imported = (name.split(".") for name, _ in imports_of(path, root))
    packages = {name[1] for name in imported if name[0] == "tfmoe" and len(name) > 1}
    return sorted(packages - allowed(parts[1]) - OUTSIDE)


FILES = sorted(ROOT.glob("tfmoe/**/*.py"))
EVERY_FILE = [*FILES, *sorted(ROOT.glob("data_pipelines/**/*.py"))]


def file_name(path):
    return path.relative_to(ROOT).as_posix()


def test_order():
    assert {file_name(path): violations(path) for path in EVERY_FILE if violations(path)} == {}


def test_the_folders_at_the_root_are_parts_of_the_package():
    for name in ("configs", "data_pipelines"):
        assert (ROOT / "tfmoe" / name).resolve() == ROOT / name
    bare = [
        file_name(path)
        for path in [*EVERY_FILE, *ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]
        for name, _ in imports_of(path)
        if name.split(".")[0] in ("configs", "data_pipelines")
    ]
    assert bare == []  # a second copy of the modules


def test_imports_are_at_the_head():
    late = {
        (file_name(path), name.split(".")[0])
        for path in EVERY_FILE
        for name, in_function in imports_of(path)
        if in_function
    }
    assert {name for _, name in late} <= LATE, late


def test_extras_imports_no_package():
    assert [name for name, _ in imports_of(ROOT / "tfmoe/extras.py") if "tfmoe" in name] == []


def test_every_package_has_a_layer():
    packages = {path.parent.name for path in ROOT.glob("tfmoe/*/*.py")}
    assert packages | {"data_pipelines"} == set(LAYER)


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


def cycle_in(graph):
    """The modules of an import cycle, in order; `[]` if there is none."""
    finished = set()

    def visit(module, path):
        if module in path:
            return [*path[path.index(module) :], module]
        if module not in finished:
            for other in sorted(graph[module]):
                cycle = visit(other, [*path, module])
                if cycle:
                    return cycle
            finished.add(module)
        return []

    return next(filter(None, (visit(module, []) for module in sorted(graph))), [])


def test_no_cycle():
    assert cycle_in(graph_of(EVERY_FILE)) == []


def write(folder, files):
    paths = []
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        paths.append(path)
    return paths


def test_search_for_cycles(tmp_path):
    files = {
        "tfmoe/a/__init__.py": "from tfmoe.a.b import x",
        "tfmoe/a/b.py": "import tfmoe.a.c",
        "tfmoe/a/c.py": "def f():\n    from tfmoe.a import x",
    }
    graph = graph_of(write(tmp_path, files), tmp_path)
    a, b, c = "tfmoe.a", "tfmoe.a.b", "tfmoe.a.c"
    assert graph == {a: {b}, b: {c}, c: {a}}
    assert cycle_in(graph) == [a, b, c, a]
    assert cycle_in({**graph, c: set()}) == []


@pytest.mark.parametrize(
    ("package", "statement", "expected"),
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
def test_the_reading_of_imports(tmp_path, package, statement, expected):
    (path,) = write(tmp_path, {f"tfmoe/{package}/module.py": statement})
    assert violations(path, tmp_path) == expected


def test_imports_for_type_checkers_are_not_read(tmp_path):
    text = "if TYPE_CHECKING:\n    from tfmoe.cli import main\nimport os\n"
    (path,) = write(tmp_path, {"tfmoe/ops/module.py": text})
    assert list(imports_of(path, tmp_path)) == [("os", False)]


def test_the_reading_of_late_imports(tmp_path):
    text = "import os\nclass A:\n    def f(self):\n        import sys\n"
    (path,) = write(tmp_path, {"tfmoe/ops/module.py": text})
    assert set(imports_of(path, tmp_path)) == {("os", False), ("sys", True)}
