import pytest

from tfmoe.config.problems import ConfigError
from tfmoe.config.yaml_text import dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5e3", 1500.0),
        (".5", 0.5),
        ("3", 3),
        ("-3", -3),
        ("1_000_000", 1_000_000),
        ("true", True),
        ("null", None),
        ("", None),
        # Text, although YAML 1.1 reads truth values, base 60, base 8 and a date.
        ("no", "no"),
        ("on", "on"),
        ("12:30", "12:30"),
        ("010", "010"),
        ("2017-01-23", "2017-01-23"),
        ("'3'", "3"),
        ("1.2.3", "1.2.3"),
    ],
)
def test_scalars(text, value):
    read, _ = parse(text, "test")
    assert read == value and type(read) is type(value)


def test_lines():
    _, lines = parse("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n", "test")
    assert lines[("a",)] == 1
    assert lines[("b",)] == 2
    assert lines[("b", 0)] == 3
    assert lines[("b", 1)] == 4
    assert lines[("b", 1, "c")] == 4
    assert lines[("b", 1, "d")] == 5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: {c: 1,\n c: 2}", "f.yaml:3: b.c: the key is already on line 2; remove one"),
        ("a: 1\n3: 2", "f.yaml:2: a key must be a word, got '3'"),
        ("[1]: 2", "f.yaml:1: a key must be a word"),
        ("a: 1\nb: [", "f.yaml:2: not valid YAML"),
        ("a: *.txt", "f.yaml:1: not valid YAML: while scanning an alias, expected alphabetic"),
        ("a: *.txt", "; quote a text that begins with *"),
        ("a: &x [*x]", "f.yaml:1: a[0]: an alias must not contain itself"),
        (
            "a: !!python/object/apply:os.system [ls]",
            "f.yaml:1: not valid YAML: could not determine",
        ),
        (b"a: \xff", "f.yaml: not valid YAML"),
        ("a: 1\n---\nb: 2", "f.yaml:2: not valid YAML: expected a single document"),
    ],
)
def test_errors_name_file_and_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert message in str(caught.value)


def test_aliases_of_aliases_do_not_take_all_memory():
    levels = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))
    with pytest.raises(ConfigError, match="less than 100,000 values"):
        parse(f"l0: &l0 [a]\n{levels}", "f.yaml")


def test_all_problems_of_a_file_together():
    with pytest.raises(ConfigError) as caught:
        parse("a: 1\na: 2\nb: {c: 1, c: 2}", "f.yaml")
    assert len(caught.value.problems) == 2


def test_dump_reads_back():
    tree = {
        "a": ["no", "1e-3", "3", "true", "", "é", None, True, 1e-7, 3, 3.0],
        "b": {},
        "c": "x: y",
    }
    again, _ = parse(dump(tree), "test")
    assert again == tree
    assert [type(value) for value in again["a"]] == [type(value) for value in tree["a"]]
    assert list(again) == ["a", "b", "c"]
