"""The site's own extensions, without a build; `make docs` builds it."""

import sys

import pytest
from docs.pages import ROOT


@pytest.fixture(scope="module", autouse=True)
def extensions():
    sys.path.insert(0, str(ROOT / "docs" / "_sphinx"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("`a_b` of *x*, |y| and z_", "``a_b`` of \\*x\\*, \\|y\\| and z\\_"),
        ("the `k`-th of `[T, D]`s", "the ``k``-th of ``[T, D]``\\ s"),
        ("see `tfmoe.gating.Gate`", "see :py:obj:`tfmoe.gating.Gate`"),
        ("one:\n- a\n  b\n- c", "one:\n\n- a\n  b\n- c"),
        ("like this:\n\n    x = `y` * 2\n\nend", "like this::\n\n    x = `y` * 2\n\nend"),
        ("Args:\n    k: of `x`.", "Args:\n    k: of ``x``."),
        ("Args:\n    k: n.\n", "Args:\n    k: \\n.\n"),
        (">>> x * y\n`2`", ">>> x * y\n`2`"),
        ("`two\nlines`", "``two lines``"),
    ],
)
def test_docstrings_as_rst(text, expected):
    import docstring_markup

    assert docstring_markup.as_rst(text) == expected


def test_links_to_sources():
    import source_links

    page = ROOT / "docs" / "page.md"
    line = "[a](../tfmoe/cli/__init__.py#L3) [b](index.md) [c](http://x) ![d](x.png)"
    text = f"{line}\n```sh\n[e](..)\n```\n"
    written = source_links.with_source_links(
        text,
        page,
        ROOT,
        lambda path: path.suffix == ".md",
        lambda path, part: f"{path.name}.html{part}",
    )
    assert written.startswith('<a href="__init__.py.html#L3">a</a> [b](index.md) [c](http://x)')
    assert "[e](..)" in written


def test_names_become_links():
    import source_links

    written = source_links.with_source_links(
        "`tests/docs/pages.py::Block`, `tests/docs/pages.py::Nothing`",
        ROOT / "docs" / "page.md",
        ROOT,
        lambda path: False,
        lambda path, fragment: path.name + fragment,
    )
    lines = (ROOT / "tests" / "docs" / "pages.py").read_text(encoding="utf-8").split("\n")
    line = lines.index("class Block(NamedTuple):")
    assert written == (
        f'<a href="pages.py#L{line + 1}">`tests/docs/pages.py::Block`</a>, '
        "`tests/docs/pages.py::Nothing`"
    )


def test_pages_of_sources():
    import source_links

    page = source_links.source_page(ROOT / "tests" / "docs" / "test_site.py", ROOT)
    assert 'name="L-3"' in page and "<title>tests/docs/test_site.py</title>" in page
    assert "pages.py" in source_links.source_page(ROOT / "tests" / "docs", ROOT)
