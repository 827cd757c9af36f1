"""The notebooks run from start to end. They are committed with outputs, small, and without traces
of the machine that ran them.
"""

import ast
import os
import pathlib
import re

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
QUICK = {"5_scaling_out"}  # under a minute: also run by `make test`
MAX_KILOBYTES = 400
MAX_LINES = 60  # of an output, which must not contain a progress bar of training
ABSOLUTE = re.compile(r"(?<![\w.~])/(?:home|root|tmp|work|usr|var|opt|private|Users)/|[A-Z]:\\")
NOISE = ("WARNING", "Warning:", "INFO:tensorflow", "ms/step", "cuda", "oneDNN", "\x1b[", "\r")
PRINTING = {"print", "display", "show"}


def read(path):
    return nbformat.read(path, as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source]


def syntax(cell):
    """The syntax tree of a cell without IPython's magic lines."""
    lines = cell.source.split("\n")
    return ast.parse("\n".join("" if line.startswith(("%", "!")) else line for line in lines))


def has_output(cell):
    """Whether a cell prints, draws or ends with a variable; `None` if it ends with a call, whose
    result is unknown. Function definitions are ignored.
    """
    statements = [node for node in syntax(cell).body if not isinstance(node, ast.FunctionDef)]
    calls = {
        getattr(node.func, "id", getattr(node.func, "attr", None))
        for statement in statements
        for node in ast.walk(statement)
        if isinstance(node, ast.Call)
    }
    last = statements[-1] if statements else None
    if calls & PRINTING:
        return True
    if isinstance(last, ast.Expr) and not cell.source.endswith(";"):
        return None if isinstance(last.value, ast.Call) else True
    return False


def output_texts(cell):
    for output in cell.outputs:
        if output.output_type == "stream":
            yield output.text
        else:
            yield from (
                value for kind, value in output.get("data", {}).items() if kind.startswith("text/")
            )


def check_outputs(notebook):
    """Asserts that a notebook was run once, from the top, without errors."""
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        start = cell.source[:60]
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds, start
        assert all(output.get("name") != "stderr" for output in cell.outputs), start
        assert has_output(cell) in (None, bool(cell.outputs)), start
        for text in output_texts(cell):
            assert len(text.splitlines()) <= MAX_LINES, start
            assert not ABSOLUTE.search(text), ABSOLUTE.search(text)
            assert not [word for word in NOISE if word in text], start
        images = [output for output in cell.outputs if "image/png" in output.get("data", {})]
        figures = [text for text in output_texts(cell) if text.startswith("<Figure")]
        assert len(figures) <= len(images), f"{start}: a figure has no image"


by_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def test_there_are_six():
    assert [path.stem[:2] for path in NOTEBOOKS] == ["1_", "2_", "3_", "4_", "5_", "6_"]


@by_notebook
def test_title_and_duration(path):
    first = read(path).cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {path.stem[0]}. ")
    assert re.search(r"Takes .*(minute|second)", first.source)


@by_notebook
def test_committed_outputs(path):
    check_outputs(read(path))


@by_notebook
def test_committed_files_are_small(path):
    assert path.stat().st_size < 1000 * MAX_KILOBYTES


@by_notebook
def test_no_absolute_paths(path):
    for cell in read(path).cells:
        assert not ABSOLUTE.search(cell.source), cell.source


@by_notebook
def test_no_models_are_defined(path):
    for cell in code_cells(read(path)):
        classes = [node for node in ast.walk(syntax(cell)) if isinstance(node, ast.ClassDef)]
        assert not classes, cell.source


@by_notebook
def test_links_exist(path):
    for cell in read(path).cells:
        if cell.cell_type == "markdown":
            for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", cell.source):
                assert (path.parent / target).exists(), target


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=() if path.stem in QUICK else pytest.mark.slow, id=path.stem)
        for path in NOTEBOOKS
    ],
)
def test_runs(path, tmp_path):
    """Runs in the root of the repository. The committed outputs are of runs in notebooks/."""
    before = {folder: set(folder.iterdir()) for folder in (ROOT, ROOT / "notebooks")}
    notebook = read(path)
    for cell in code_cells(notebook):
        cell.outputs, cell.execution_count = [], None
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    home = tmp_path / "home"
    environment = {**os.environ, "TMPDIR": str(temporary), "XDG_CACHE_HOME": str(home)}
    environment.pop("TFMOE_CACHE", None)
    client = NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute(env=environment)
    check_outputs(notebook)
    assert not (home / "tfmoe").exists()
    for folder, files in before.items():
        assert set(folder.iterdir()) <= files


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("print(1)", True),
        ("x = 1", False),
        ("x", True),
        ("x;", False),
        ("for i in x:\n    print(i)", True),
        ("def f():\n    print(1)", False),
        ("%matplotlib inline\nx = 1", False),
        ("plt.show()", True),
        ("x = f(print)", False),
        ("f(x)", None),
    ],
)
def test_has_output(source, expected):
    assert has_output(nbformat.v4.new_code_cell(source)) is expected


def failing(outputs, source="print(1)", count=1):
    cell = nbformat.v4.new_code_cell(source, outputs=outputs, execution_count=count)
    return nbformat.v4.new_notebook(cells=[cell])


@pytest.mark.parametrize(
    "notebook",
    [
        failing([]),
        failing([nbformat.v4.new_output("stream", text="1")], count=2),
        failing([nbformat.v4.new_output("stream", text="1")], source="x = 1"),
        failing([nbformat.v4.new_output("stream", text="1", name="stderr")]),
        failing([nbformat.v4.new_output("stream", text="in /home/me/x")]),
        failing([nbformat.v4.new_output("stream", text="1\n" * 61)]),
        failing([nbformat.v4.new_output("stream", text="INFO:tensorflow:Using")]),
        failing([nbformat.v4.new_output("error", ename="E", evalue="", traceback=[])]),
        failing([nbformat.v4.new_output("display_data", {"text/plain": "<Figure size 1x1>"})]),
    ],
)
def test_bad_outputs_are_detected(notebook):
    with pytest.raises(AssertionError):
        check_outputs(notebook)
