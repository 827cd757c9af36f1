"""Links of pages and notebooks within the repository lead somewhere, anchors included. Links to
other sites are not followed: the tests work without a network.
"""

import os

import pytest
from docs.pages import ROOT, anchors, links, pages, text_of

FILES = [*pages(), *sorted((ROOT / "notebooks").glob("*.ipynb"))]


def problem(path, target, generated):
    """What is wrong with a link of a page; `None` if nothing is."""
    if "://" in target or target.startswith("mailto:"):
        return None
    file, _, anchor = target.partition("#")
    there = (path.parent / file).resolve() if file else path
    if not there.exists():
        return f"{target}: no such file"
    if there.suffix in (".md", ".ipynb"):
        known = anchors(generated.with_generated(text_of(there)))
        return f"{target}: no such heading" if anchor and anchor not in known else None
    if anchor:
        line = anchor.removeprefix("L").partition("-")[0]
        lines = there.read_text(encoding="utf-8").count("\n")
        if not line.isdigit() or not 1 <= int(line) <= lines:
            return f"{target}: no such line"
    return None


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links(path, generated_pages):
    text = generated_pages.with_generated(text_of(path))
    found = [problem(path, target, generated_pages) for target in links(text)]
    assert [each for each in found if each] == []


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("docs/distribution.md", None),
        ("docs/distribution.md#limits", None),
        ("docs/reference/commands.md#tfmoe-train", None),
        ("docs/reference/config.md#noisy_top_k", None),
        ("tests/docs/pages.py#L3", None),
        ("https://arxiv.org/abs/1701.06538", None),
        ("docs/no_such_page.md", "no such file"),
        ("docs/distribution.md#no-such-heading", "no such heading"),
        ("tests/docs/pages.py#L9999", "no such line"),
    ],
)
def test_the_check_of_a_link(target, expected, generated_pages):
    found = problem(ROOT / "README.md", target, generated_pages)
    assert found is None if expected is None else expected in found


def test_links_in_code_do_not_count():
    text = "[a](b.md) `[c](d.md)`\n```python\nx[0](e)\n```\n![f](g.svg)\n"
    assert links(text) == ["b.md", "g.svg"]


def test_anchors():
    text = "# A `b_c` (d)\n\n## Two words\n## Two words\n```sh\n# no heading\n```\n"
    assert anchors(text) == {"a-b_c-d", "two-words", "two-words-1"}


def test_no_link_leaves_the_repository():
    for path in FILES:
        for target in links(text_of(path)):
            if "://" not in target and not target.startswith("#"):
                there = os.path.normpath(path.parent / target.partition("#")[0])
                assert there.startswith(str(ROOT)), target
