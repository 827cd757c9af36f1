import pytest

from tfmoe.data_pipelines import TextError
from tfmoe.data_pipelines.records.records import (
    Records,
    choose_columns,
    names_in,
    texts,
    value_of,
)


class Given(Records):
    def __init__(self, *records):
        super().__init__("given", "given", "given")
        self.given = records

    def state(self):
        return None

    def columns(self):
        return names_in(self.given[0])

    def read(self, columns):
        yield from enumerate(self.given, 1)


NESTED = {"id": 1, "text": "a", "translation": {"de": "b", "en": {"x": "c"}}, "a.b": "d", "e": {}}


def test_columns_may_be_nested():
    assert names_in(NESTED) == ["id", "text", "translation.de", "translation.en.x", "a.b", "e"]
    values = [value_of(NESTED, name) for name in names_in(NESTED)]
    assert values == [1, "a", "b", "c", "d", {}]
    for name in ("x", "text.x", "translation.fr", "id.x", ""):
        with pytest.raises(KeyError):
            value_of(NESTED, name)


def test_the_first_name_that_is_a_column_is_taken():
    wanted = {"source_column": ["de", "translation.de"], "target_column": ["id", "text"]}
    assert choose_columns(Given(NESTED), wanted) == ["translation.de", "id"]
    with pytest.raises(TextError) as caught:
        choose_columns(Given(NESTED), {"column": ["txt"]})
    assert str(caught.value) == (
        "given: there is no column 'txt' (data.column); did you mean text? The columns are: id,"
        " text, translation.de, translation.en.x, a.b, e"
    )
    many = Given({f"c{index}": "" for index in range(99)})
    with pytest.raises(TextError, match=r"no column 'x' or 'y' .*\. The columns .* c29, …$"):
        choose_columns(many, {"column": ["x", "y"]})


def test_texts():
    given = Given({"a": "x", "b": None}, {"b": "é", "a": ""})
    assert list(texts(given, ["b", "a"])) == [(1, ["", "x"]), (2, ["é", ""])]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "given: row 2: there is no column 'a'. The columns are: none"),
        ({"b": 1}, "given: row 2: there is no column 'a'. The columns are: b"),
        ({"a": 3}, "given: row 2: column 'a' must be text, got 3 of type int"),
        ({"a": ["b"] * 99}, "given: row 2: column 'a' must be text, got ['b', "),
        ({"a": {"b": "c"}}, "given: row 2: column 'a' must be text, got {'b': 'c'} of type dict"),
        (
            {"a": "x\ud800"},
            "given: row 2: column 'a' is not Unicode text: character 2 is '\\ud800'",
        ),
    ],
)
def test_what_is_no_text(value, message):
    with pytest.raises(TextError) as caught:
        list(texts(Given({"a": ""}, value), ["a"]))
    assert str(caught.value).startswith(message)
