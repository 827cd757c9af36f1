import itertools

import pytest

from tfmoe.data_pipelines import english_text
from tfmoe.data_pipelines.english_text import english_sentences, is_prose


def sentences(document):
    found = []
    for paragraph in english_text._paragraphs(document):
        found.extend(english_text._split_sentences(paragraph))
    return found


def test_paragraphs_and_markup():
    document = """Return the *first* item of ``items``, see :func:`next`.  It may be
    missing, e.g. in an empty list.

    >>> first([1])
    1

    ======  =====
    a       table
    ======  =====

    Args:
      items: The items to look at.
      default (int): What is returned if there is none.
    """
    assert sentences(document) == [
        "Return the first item of items, see next.",
        "It may be missing, e.g. in an empty list.",
        "The items to look at.",
        "What is returned if there is none.",
    ]


def test_fenced_code_is_left_out():
    assert sentences("Before it.\n\n```\nx = 1\n\nInside the code.\n```\n\nAfter it.") == [
        "Before it.",
        "After it.",
    ]


@pytest.mark.parametrize(
    "sentence, answer",
    [
        ("the cat is on the mat .", True),
        ("the cat sat .", False),  # too short
        ("the cat is on the mat", False),  # no end
        ("foo ( bar , baz ) = the qux .", False),  # punctuation
        ("lorem ipsum dolor sit amet consectetur .", False),  # no English
    ],
)
def test_is_prose(sentence, answer):
    assert is_prose(sentence.split()) is answer


def test_sentences_of_this_installation():
    found = list(itertools.islice(english_sentences([]), 2000))
    assert len({" ".join(words) for words in found}) == 2000
    assert all(is_prose(words) for words in found)
    openings = [tuple(words[:5]) for words in found]
    assert max(map(openings.count, set(openings))) <= english_text.SAME_OPENING
