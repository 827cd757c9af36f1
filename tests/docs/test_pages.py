"""Every block of Python and of commands in the pages is correct, and runs or says why not.

`make test` compiles the Python, imports what it imports, and parses the commands; pages without
training are run. `make test-all` runs all pages.
"""

import ast
import functools
import importlib
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from docs.pages import ROOT, Block, blocks, commands, pages, tfmoe_arguments, without_comments
from docs.run_blocks import run
from typer.main import get_command

import tfmoe
from tfmoe.cli import app
from tfmoe.config import load_config

PAGES = {path.relative_to(ROOT).as_posix(): path for path in pages()}
BLOCKS = {name: blocks(path.read_text(encoding="utf-8")) for name, path in PAGES.items()}
RUN = {
    name: some
    for name, every in BLOCKS.items()
    if (some := [b for b in every if b.language in ("python", "sh") and b.reason is None])
}
# Pages of Python alone that take a second or two; the other pages are run by `make test-all`.
QUICK = {
    "README.md",
    "docs/index.md",
    "docs/guides/choose_a_gate.md",
    "docs/guides/your_own_keras_model.md",
}
TFMOE = get_command(app)
MAIN = TFMOE.make_context("tfmoe", [], resilient_parsing=True)
PATH = re.compile(
    r"`((?:tfmoe|data_pipelines|configs|benchmarks|tests|docs)/[\w./-]*)(?:::(\w+))?`"
)

# Files that are no more, or that the reader writes.
ABSENT = {
    "CHANGELOG.md": re.compile(""),
    "CONTRIBUTING.md": re.compile("sigmoid_top_k"),
    "docs/README.md": re.compile("_build"),
}

by_page = pytest.mark.parametrize("name", BLOCKS)


def of_language(name, language):
    return [block for block in BLOCKS[name] if block.language == language]


@by_page
def test_python_compiles_and_imports(name):
    for block in of_language(name, "python"):
        check_python(block, name)


def check_python(block, name):
    """Asserts that a block is Python, and that what it imports of tfmoe exists."""
    tree = ast.parse("\n" * (block.line - 1) + block.text, name)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "tfmoe":
            module = importlib.import_module(node.module)
            for alias in node.names:
                if not hasattr(module, alias.name):
                    importlib.import_module(f"{node.module}.{alias.name}")


@by_page
def test_commands_parse(name):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for block in of_language(name, "sh"):
        for words in commands(block.text):
            arguments = tfmoe_arguments(words)
            if arguments is not None:
                check_command([*arguments, *added_options(arguments, block)])
            if words[0] == "make":
                assert set(words[1:]) <= targets, words


def check_command(arguments):
    """Asserts that `tfmoe` has a command with these arguments, and the config that it names.
    Words in capitals stand for something.
    """
    assert arguments and arguments[0] in TFMOE.commands, f"tfmoe has no command {arguments[:1]}"
    if {"--help", "-h"} & set(arguments):
        return
    command = TFMOE.commands[arguments[0]]
    context = command.make_context(arguments[0], [*arguments[1:]], parent=MAIN)
    config = context.params.get("config")
    changes = [context.params[p.name] for p in command.params if "--set" in p.opts]
    if isinstance(config, str) and not config.isupper() and not config.endswith(".yaml"):
        check_config(config, tuple(changes[0] or ()) if changes else ())


@functools.cache
def check_config(name, overrides):
    """Asserts that a shipped config can be loaded with these changes."""
    load_config(name, list(overrides))


def added_options(arguments, block):
    """The options of `<!-- run with: … -->`, for a command that takes them."""
    if not block.options or not arguments:
        return []
    known = {option for p in TFMOE.commands[arguments[0]].params for option in p.opts}
    (options,) = commands(block.options)
    return options if options[0] in known else []


@by_page
def test_paths_exist(name):
    shown = PATH.findall(PAGES[name].read_text(encoding="utf-8"))
    missing = [
        (path, symbol)
        for path, symbol in shown
        if not (ROOT / path).exists() or (symbol and not defines(ROOT / path, symbol))
    ]
    absent = ABSENT.get(name, re.compile("$^"))
    assert [each for each in missing if not absent.search(each[0])] == []


def defines(path, symbol):
    """Whether a Python file defines a class, a function or a constant."""
    text = path.read_text(encoding="utf-8")
    return re.search(rf"^ *(class |def )?{symbol}\b *([(:=]|$)", text, re.MULTILINE) is not None


def with_options(block):
    """A block of commands with the options of `<!-- run with: … -->` in it."""
    if not block.options:
        return block.text
    lines = block.text.replace("\\\n", " ").split("\n")
    for index, line in enumerate(lines):
        arguments = [a for words in commands(line) if (a := tfmoe_arguments(words))]
        if arguments and added_options(arguments[-1], block):
            lines[index] = f"{without_comments(line).rstrip()} {block.options}"
    return "\n".join(lines)


def contents(name):
    """The blocks of a page to run, as `run_blocks` takes them; files are among them."""
    return [
        {"language": each.language, "text": with_options(each), "line": each.line}
        for each in BLOCKS[name]
        if each.reason is None
    ]


@pytest.fixture
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFMOE_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("name", sorted(QUICK & set(RUN)))
def test_quick_page_runs(name, in_a_folder):
    assert {block.language for block in RUN[name]} == {"python"}
    names = run(name, contents(name))
    if name == "README.md":
        losses = names["history"]["val_loss"]
        assert losses[-1] < 0.5 * losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(RUN) - QUICK))
def test_page_runs(name, tmp_path, tmp_path_factory):
    """In a process of its own, in an empty folder, with this `tfmoe` on the path."""
    programs, folder = tmp_path / "programs", tmp_path / "folder"
    programs.mkdir(), folder.mkdir()
    script = programs / "tfmoe"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tfmoe "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    listed = tmp_path / "blocks.json"
    listed.write_text(json.dumps({"page": name, "blocks": contents(name)}), encoding="utf-8")
    environment = {
        **os.environ,
        "PATH": os.pathsep.join(
            [str(programs), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(Path(tfmoe.__file__).parents[1]),
        "TFMOE_CACHE": str(tmp_path_factory.getbasetemp() / "text_of_pages"),
        "MPLBACKEND": "Agg",
    }
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "docs" / "run_blocks.py", listed],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


PAGE = """\
<!-- not run: needs
two hosts -->
```sh
a=1 b | tfmoe train X > y  # c
```

<!--
```python
x = 1
```
-->

<!-- run with: --set a.b=1 -->
```sh
srun tfmoe train \\
  X
tfmoe tables
```
"""


def test_reading_of_a_page():
    first, hidden, last = blocks(PAGE)
    assert first == Block("sh", "a=1 b | tfmoe train X > y  # c\n", 4, "needs\ntwo hosts")
    assert hidden == Block("python", "x = 1\n", 9)
    assert (last.reason, last.options) == (None, "--set a.b=1")
    assert with_options(last) == "srun tfmoe train    X --set a.b=1\ntfmoe tables\n"


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("a 'b c' | d; e", [["a", "b c"], ["d"], ["e"]]),
        ("A=1 a --set x[0]=2  # b\n", [["a", "--set", "x[0]=2"]]),
        ("a > b && c < d e", [["a"], ["c", "e"]]),
        ("a  # it's b\nc", [["a"], ["c"]]),
        ("export A='{\n}'\n# a\nb", [["export", "A={\n}"], ["b"]]),
    ],
)
def test_reading_of_commands(script, expected):
    assert commands(script) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        ["trian", "demo/grammars"],
        ["train"],
        ["train", "demo/grammars", "--no-such-option"],
        ["train", "demo/no_such_config"],
        ["train", "demo/grammars", "--set", "model.no_such_key=1"],
    ],
)
def test_bad_commands_are_refused(arguments):
    with pytest.raises(Exception, match=r"(?i)no |missing|unknown"):
        check_command(arguments)


@pytest.mark.parametrize("text", ["x =", "from tfmoe.layers import NoSuchLayer"])
def test_bad_python_is_refused(text):
    with pytest.raises((SyntaxError, ImportError)):
        check_python(Block("python", text, 3), "page")
