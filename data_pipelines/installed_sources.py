"""The Python files of the running installation, listed without importing them."""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import re
import sysconfig
import tokenize

# Directories whose text is data, a copy of another package, or tests.
SKIPPED = frozenset({
    "test", "tests", "testing", "idle_test", "_vendor", "_distutils", "site-packages", "pydoc_data",
    "encodings", "lib2to3", "turtledemo", "generated", "__pycache__",
})  # fmt: skip

_TEST = re.compile(r"test_.*|.*_test(s|_util|_utils|lib)?\.py")


def python_files(packages):
    """Returns the source files of the standard library, then of some packages.

    Args:
        packages: names of top-level packages. Those that are not installed are left out.

    Returns:
        List of `pathlib.Path`, in an order that depends on the installed versions only.
    """
    roots = [pathlib.Path(sysconfig.get_path("stdlib"))]
    for name in packages:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations:
            roots.append(pathlib.Path(next(iter(spec.submodule_search_locations))))
    return [file for root in roots for file in _walk(root)]


def _walk(directory):
    """Yields the Python files of a directory tree in alphabetical order, tests and the skipped
    directories left out.
    """
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        if entry.is_dir(follow_symlinks=False):
            if entry.name not in SKIPPED:
                yield from _walk(entry.path)
        elif entry.name.endswith(".py") and not _TEST.fullmatch(entry.name):
            yield pathlib.Path(entry.path)


def read_source(file):
    """Returns the text of a Python file in its declared encoding, or "" if it cannot be decoded."""
    try:
        with tokenize.open(file) as source:
            return source.read()
    except (SyntaxError, UnicodeDecodeError):
        return ""


def versions(distributions):
    """Returns `{"python": "3.11.7", "numpy": "2.4.6", …}`, with `None` for what is not
    installed.
    """
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
