"""The site's extension that generates parts of pages, for the tests of this folder."""

import sys

import pytest
from docs.pages import ROOT


@pytest.fixture(scope="session")
def generated_pages():
    """The module `docs/_sphinx/generated_pages.py`."""
    sys.path.insert(0, str(ROOT / "docs" / "_sphinx"))
    import generated_pages

    return generated_pages
