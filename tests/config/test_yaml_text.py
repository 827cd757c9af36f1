"""Reading and writing of YAML."""

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
        # Text; YAML 1.1 would read booleans, a base-60 number, an octal number and a date.
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
        ("a: 1\nb: {c: 1,\n c: 2}", "f.yaml:3: b.c: duplicate key, also on line 2; remove one"),
        ("a: 1\n3: 2", "f.yaml:2: a key must be a word, got '3'"),
        ("[1]: 2", "f.yaml:1: a key must be a word"),
        ("a: 1\nb: [", "f.yaml:2: not valid YAML"),
        ("a: *.txt", "f.yaml:1: not valid YAML: while scanning an alias, expected alphabetic"),
        ("a: *.txt", "; quote text that begins with *"),
        ("a: &x [*x]", "f.yaml:1: a[0]: an alias must not contain itself"),
        ("a: !!python/object/apply:os.system [ls]", "f.yaml:1: a: must not have the tag !!python"),
        ("\na: !!timestamp 2017-01-23", "f.yaml:2: a: must not have the tag !!timestamp"),
        ("a: !!set {b}", "f.yaml:1: a: must not have the tag !!set"),
        ("a: !mine 3", "f.yaml:1: a: must not have the tag !mine"),
        ("a: !!bool maybe", "f.yaml:1: a: must be true or false, got 'maybe'"),
        ("a: !!int ''", "f.yaml:1: a: must be an integer of at most 300 digits, got ''"),
        ("a: !!int 0b2", "must be an integer of at most 300 digits, got '0b2'"),
        ("a: !!float .", "a: must be a number between -1.8e308 and 1.8e308, got '.'"),
        ("a: 1e400", "a: must be a number between -1.8e308 and 1.8e308, got '1e400'"),
        ("a: !!null x", "a: must be null, got 'x'"),
        ('a: "\\U00FFFFFF"', 'f.yaml:1: not valid YAML: "\\U…" must be a Unicode character'),
        ('a: "\\e[31m"', r"a: must be text without control characters and line breaks, got '\x1b"),
        ('a: "\\ud800"', r"a: must be text without control characters and line breaks, got '\ud8"),
        ("a: |\n  b\n", r"a: must be text without control characters and line breaks, got 'b\n'"),
        ('"\\u202e": 3', r"f.yaml:1: a key must be a word, got '\u202e'"),
        ("a: 1\nb: \x1b", "f.yaml:2: not valid YAML: the character U+001B is not allowed"),
        (b"a: 1\nb: \xff", "f.yaml:2: a config must be UTF-8 text; invalid start byte at byte 8"),
        ("a: 1".encode("utf-16")[:-1], "f.yaml: a config must be UTF-8 text; truncated data"),
        ("a: 1".encode("utf-32"), "f.yaml:1: not valid YAML: the character U+0000 is not"),
        ("a: 1\n---\nb: 2", "f.yaml:2: not valid YAML: expected a single document"),
    ],
)
def test_errors_name_file_and_line(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert message in str(caught.value)


LEVELS = "".join(f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]\n" for i in range(1, 9))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"l0: &l0 [a]\n{LEVELS}", "at most 20,000 values"),
        (f"a: [{'1, ' * 20_000}]", "f.yaml:1: a config must have at most 20,000 values"),
        ("a: " + "[" * 500, "f.yaml:1: a config must have at most 50 levels of mappings and lists"),
        ("".join(f"{' ' * i}a:\n" for i in range(500)), "f.yaml:50: a config must have at most 50"),
        # An alias nests 40 levels in 40 levels.
        (f"a: &a {'[' * 40}{']' * 40}\nb: {'[' * 40}*a{']' * 40}", "f.yaml:1: b[0][0]"),
        ("a: " + "x" * 1_000_000, "f.yaml: a config must have at most 1,000,000 bytes"),
        ("a: " + "9" * 10_000, "a: must be an integer of at most 300 digits, got '999"),
        ("x" * 101 + ": 1", "f.yaml:1: a key must be a word, got 'xxx"),
    ],
)
def test_too_large(text, message):
    with pytest.raises(ConfigError) as caught:
        parse(text, "f.yaml")
    assert message in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(encoding):
    assert parse("a: é\n".encode(encoding), "f.yaml") == ({"a": "é"}, {(): 1, ("a",): 1})


def test_an_alias_is_expanded_to_a_copy():
    tree, _ = parse("a: [&x {b: 1}, *x]", "f.yaml")
    tree["a"][0]["b"] = 2
    assert tree["a"][1] == {"b": 1}


def test_all_problems_of_a_file_are_reported():
    with pytest.raises(ConfigError) as caught:
        parse("a: 1\na: 2\nb: {c: 1, c: 2}", "f.yaml")
    assert len(caught.value.problems) == 2
    with pytest.raises(ConfigError) as caught:
        parse("\n".join(["a: 1"] * 1000), "f.yaml")
    lines = str(caught.value).split("\n")
    assert len(lines) == 21 and lines[-1] == "… and more"


def test_dump_round_trip():
    tree = {
        "a": ["no", "1e-3", "3", "true", "", "é", None, True, 1e-7, 3, 3.0],
        "b": {},
        "c": "x: y",
    }
    again, _ = parse(dump(tree), "test")
    assert again == tree
    assert [type(value) for value in again["a"]] == [type(value) for value in tree["a"]]
    assert list(again) == ["a", "b", "c"]
