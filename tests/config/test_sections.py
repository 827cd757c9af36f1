"""Sections made from constructors, and objects made from sections."""

import dataclasses
import typing
from collections.abc import Callable

import pydantic
import pytest

from tfmoe.config.explain import explain
from tfmoe.config.sections import SectionError, construct, section_of


@dataclasses.dataclass(frozen=True)
class Words:
    """The words that have an id."""

    size: int | None = None
    min_count: int = 1

    def __post_init__(self):
        if self.min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {self.min_count}")


@dataclasses.dataclass(frozen=True)
class Direction:
    source: str
    files: list[str]
    weight: float = 1.0

    def __post_init__(self):
        if self.weight <= 0:
            raise ValueError(f"weight must be above 0, got {self.weight:g}")


class Corpus:
    """A corpus for tests.

    Args:
        train: files.
    """

    RETIRED = ("lines",)

    def __init__(
        self,
        train: list[str],
        words: Words = Words(min_count=2),
        languages: tuple[str, ...] = ("de", "fr"),
        directions: list[Direction] = (),
        kind: typing.Literal["plain", "gzip"] = "plain",
        transform: Callable | None = None,
        **kwargs,
    ):
        self.train, self.words, self.languages = train, words, languages
        self.directions, self.kind, self.kwargs = directions, kind, kwargs
        problems = [] if train else ["train must have a file, got none"]
        for i, language in enumerate(languages):
            if len(language) != 2:
                problems.append(f"languages[{i}] must have two letters,\ngot {language}")
        if problems:
            raise ValueError("\n".join(problems))


def problem(section, **values):
    with pytest.raises(pydantic.ValidationError) as caught:
        section.model_validate(values)
    (only,) = {explain(error, section, values) for error in caught.value.errors()}
    return only


@pytest.fixture
def section():
    return section_of(Corpus, "corpus")


def test_keys_defaults_and_docstring(section):
    assert section(train=["a"]).model_dump() == {
        "name": "corpus",
        "train": ["a"],
        "words": {"size": None, "min_count": 2},
        "languages": ["de", "fr"],
        "directions": [],
        "kind": "plain",
    }
    assert section.__doc__.startswith("A corpus for tests.\n\nArgs:\n    train")


def test_construct(section):
    settings = section.model_validate(
        {
            "train": "a",
            "words": {"size": 5},
            "languages": ["it"],
            "directions": [{"source": "de", "files": "b"}],
        }
    )
    assert section.model_validate(settings.model_dump()) == settings
    corpus = construct(settings, shuffle=True)
    assert isinstance(corpus, Corpus)
    assert (corpus.train, corpus.words, corpus.languages) == (["a"], Words(5, 1), ("it",))
    assert corpus.directions == [Direction("de", ["b"])]
    assert corpus.kwargs == {"shuffle": True}


def test_retired_arguments_may_be_0(section):
    assert section(train=["a"], lines=0) == section(train=["a"])
    assert problem(section, train=["a"], lines=1)[0] == ("lines",)


@pytest.mark.parametrize(
    ("values", "path", "message"),
    [
        ({}, ("train",), "is missing; it must be a list of text"),
        ({"train": 3}, ("train",), "must be a list of text, got 3"),
        ({"train": "a", "words": {"sise": 3}}, ("words", "sise"),
         "unknown key (its value is 3); did you mean size? Valid keys: size, min_count"),
        ({"train": "a", "kind": "gzi"}, ("kind",),
         "must be plain or gzip, got 'gzi'; did you mean gzip?"),
        ({"train": "a", "directions": [{"source": "de", "files": [1]}]},
         ("directions", 0, "files", 0), "must be text, got 1"),
        ({"train": "a", "languages": ["de", None]}, ("languages", 1), "must be text, got null"),
    ],
)  # fmt: skip
def test_type_errors(section, values, path, message):
    assert problem(section, **values) == (path, message)


def construction_error(section, **values):
    with pytest.raises(SectionError) as caught:
        construct(section.model_validate(values))
    return caught.value


def test_errors_of_a_constructor_have_keys(section):
    error = construction_error(section, train=[], languages=["de", "ger"])
    assert error.problems == [
        (("train",), "must have a file, got none"),
        (("languages", 1), "must have two letters,\ngot ger"),
    ]
    assert str(error) == (
        "train must have a file, got none\nlanguages[1] must have two letters,\ngot ger"
    )


def test_errors_of_inner_constructors_are_collected(section):
    directions = [{"source": "de", "files": []}, {"source": "fr", "files": [], "weight": 0}]
    error = construction_error(section, train="a", words={"min_count": 0}, directions=directions)
    assert error.under("data") == [
        (("data", "words", "min_count"), "must be at least 1, got 0"),
        (("data", "directions", 1, "weight"), "must be above 0, got 0"),
    ]


class Inner:
    def __init__(self, k=4, **kwargs):
        super().__init__(**kwargs)


class Outer:
    def __init__(self, inner, n: int, **kwargs):
        self.inner, self.n = inner, n
        raise ValueError(f"Exception encountered: k must be at most {n}")


def test_an_outer_constructors_error_about_an_inner_argument():
    inner = section_of(Inner, "inner")
    outer = section_of(Outer, "outer", fields={"inner": inner, "other": int})
    with pytest.raises(SectionError) as caught:
        construct(outer(inner=inner(k=5), n=3))
    assert caught.value.problems == [(("inner", "k"), "must be at most 3")]
    assert str(caught.value) == "inner.k must be at most 3"


class Base:
    def __init__(self, name=None, dtype="float32"):
        pass


class Middle(Base):
    def __init__(self, width=1.5, hidden=None, **kwargs):
        super().__init__(**kwargs)


class Top(Middle):
    def __init__(self, depth, activation: str | Callable = "relu", hidden=True, **kwargs):
        super().__init__(**kwargs)


def test_kwargs_are_followed_to_a_base():
    assert list(section_of(Top, "top", base=Base).model_fields) == [
        "name", "depth", "activation", "hidden", "width",
    ]  # fmt: skip
    assert list(section_of(Top, leave_out=["depth"]).model_fields) == [
        "activation", "hidden", "width", "dtype",
    ]  # fmt: skip
    section = section_of(Top, base=Base)
    assert section(depth="deep").depth == "deep"  # no annotation, no default: any scalar
    scalar = "must be a number, text, true, false or null, got [1]"
    assert problem(section, depth=[1]) == (("depth",), scalar)
    assert problem(section, depth=1, hidden=None)[1] == "must be true or false, got null"
    assert problem(section, depth=1, width="1") == (("width",), "must be a number, got '1'")
    # Of the union of text and a function, text remains.
    value = {"class_name": "Evil", "config": {}}
    assert problem(section, depth=1, activation=value)[1].startswith("must be text, got {'class")


def rate(peak, steps: int, name="x", end=0.0):
    return peak, steps, end


def test_functions():
    section = section_of(rate, "rate", leave_out=["peak"], doc="A rate.", fields={"end": int})
    assert list(section.model_fields) == ["name", "steps", "end"]
    assert section.__doc__ == "A rate."
    assert construct(section(steps=3, end=1), peak=2.0) == (2.0, 3, 1)


def test_additional_keys():
    meaning = "number of words, " * 6 + "all of them."
    section = section_of(rate, "rate", doc="A rate.", more={"words": (int, 3, meaning)})
    assert section(peak=1, steps=2).words == 3
    assert section.__doc__ == (
        "A rate.\n\nMore keys:\n"
        "    words: number of words, number of words, number of words, number of words, number of "
        "words,\n        number of words, all of them.\n"
    )
    assert construct(section(peak=1, steps=2, words=5)) == (1, 2, 0.0)


def test_arguments_that_yaml_cannot_express():
    def call(function: Callable):
        pass

    with pytest.raises(TypeError, match="call: a config cannot express function, of type"):
        section_of(call)
    assert list(section_of(call, leave_out=["function"]).model_fields) == []


@pytest.mark.parametrize("name", ["model_config", "copy", "_private"])
def test_arguments_named_like_an_attribute_of_sections(name):
    names = {}
    exec(f"def make({name}: int = 1): pass", names)
    with pytest.raises(TypeError, match=f"make: {name} cannot be a key of a config"):
        section_of(names["make"])
