"""Reads and writes the YAML of configs: a safe subset, with YAML 1.2 scalars and line numbers.

`1e-3` is a number, `no` (a language code) and `12:30` are text, only `true` and `false` are
booleans. `1_000_000` is an integer, as in Python. A config cannot name a class, run code, print
control characters to a terminal, or take more than seconds to read.
"""

import codecs
import math
import re

import yaml

from tfmoe.analysis.printable import UNSEEN
from tfmoe.config.problems import ConfigError, Problem, format_value, key_of

MAX_BYTES = 1_000_000
MAX_VALUES = 20_000  # nested aliases can expand to more values than fit into memory
MAX_LEVELS = 50  # of nested mappings and lists
MAX_DIGITS = 300  # every such integer fits a float
MAX_KEY_LENGTH = 100
TAG = "tag:yaml.org,2002:"
SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", list("-+0123456789")),
    (
        "float",
        r"[-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?"
        r"|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)
PATTERNS = {name: re.compile(pattern) for name, pattern, _ in SCALARS}
# What a scalar must be, for error messages.
EXPECTED = {
    "null": "null",
    "bool": "true or false",
    "int": f"an integer of at most {MAX_DIGITS} digits",
    "float": "a number between -1.8e308 and 1.8e308",
    "str": "text without control characters and line breaks",
}


class _TooLargeError(yaml.MarkedYAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Composes nodes for `_Reader`. Stops as soon as there are too many."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's protocol)

    def __init__(self, text):
        super().__init__(text)
        self.nodes = self.level = 0

    def compose_node(self, parent, index):
        self.nodes += 1
        self.level += 1
        problem = too_large(self.nodes, self.level)
        if problem:
            raise _TooLargeError(problem=problem, problem_mark=self.get_mark())
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)  # indents lists below their key


for _tag, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )


def parse(text, name):
    """Reads one YAML document.

    Args:
        text: string or bytes (UTF-8, or UTF-16 with a byte order mark).
        name: the name of the text in errors: a file name, or `--set key=value`.

    Returns:
        `(tree, lines)`: dictionaries, lists and scalars, none of them shared; and the line number,
        from 1, of every path, as `{("model", "blocks", 0): 7, …}`.

    Raises:
        ConfigError: for invalid YAML, a document that is too long or too deep, a duplicate or
            invalid key, a scalar that does not match its tag, or an alias that contains itself.
    """
    text = _decoded(text, name)
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        where = _line_of(text, error.position, name)
        message = f"not valid YAML: the character U+{error.character:04X} is not allowed"
        raise ConfigError([Problem(where, "", message)]) from error
    try:
        node = loader.get_single_node()
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, name)]) from error
    except (ValueError, OverflowError) as error:  # raised by chr()
        message = 'not valid YAML: "\\U…" must be a Unicode character, up to "\\U0010FFFF"'
        raise ConfigError([Problem(f"{name}:{loader.line + 1}", "", message)]) from error
    finally:
        loader.dispose()
    reader = _Reader(name)
    tree = None if node is None else reader.read(node, (), ())
    if reader.problems:
        raise ConfigError(reader.problems)
    return tree, reader.lines


def too_large(values, levels):
    """The error message for too many values or levels; `None` if there are not too many."""
    if values > MAX_VALUES:
        return f"a config must have at most {MAX_VALUES:,} values"
    if levels > MAX_LEVELS:
        return f"a config must have at most {MAX_LEVELS} levels of mappings and lists"
    return None


def _decoded(text, name):
    """The text as a string."""
    if len(text) > MAX_BYTES:
        raise ConfigError([Problem(name, "", f"a config must have at most {MAX_BYTES:,} bytes")])
    if isinstance(text, str):
        return text
    is_utf16 = text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return text.decode("utf-16" if is_utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        where = name if is_utf16 else _line_of(text, error.start, name)
        message = f"a config must be UTF-8 text; {error.reason} at byte {error.start}"
        raise ConfigError([Problem(where, "", message)]) from error


def _line_of(text, position, name):
    newline = b"\n" if isinstance(text, bytes) else "\n"
    return f"{name}:{text[:position].count(newline) + 1}"


def _syntax_problem(error, name):
    mark = getattr(error, "problem_mark", None)
    where = f"{name}:{mark.line + 1}" if mark else name
    message = getattr(error, "problem", None) or str(error).splitlines()[0]
    if isinstance(error, _TooLargeError):
        return Problem(where, "", message)
    context = getattr(error, "context", None)
    hint = "; quote text that begins with *" if "alias" in f"{context} {message}" else ""
    context = f"{context}, " if context else ""
    return Problem(where, "", f"not valid YAML: {context}{message}{hint}")


class _Reader:
    """Converts nodes to values.

    Args:
        name: the name of the text in errors.

    Attributes:
        lines: the line number of every path, see `parse`.
        problems: list of `Problem`.
    """

    def __init__(self, name):
        self.name = name
        self.lines, self.problems = {}, []

    def read(self, node, path, enclosing):
        """The value of a node. An alias is expanded to a copy.

        Args:
            node: a PyYAML node.
            path: its keys and indices.
            enclosing: the nodes around it.

        Raises:
            ConfigError: if the document is too large with all aliases expanded.
        """
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        problem = too_large(len(self.lines), len(enclosing) + 1)
        if problem:
            raise ConfigError([Problem(f"{self.name}:{line}", key_of(path), problem)])
        if node in enclosing:
            return self._report(node, path, "an alias must not contain itself")
        kind, enclosing = node.tag.removeprefix(TAG), (*enclosing, node)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self._mapping(node, path, enclosing)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            items = enumerate(node.value)
            return [self.read(item, (*path, index), enclosing) for index, item in items]
        if isinstance(node, yaml.ScalarNode) and kind in EXPECTED:
            value = scalar(kind, node.value)
            if value is not INVALID:
                return value
            message = f"must be {EXPECTED[kind]}, got {format_value(node.value)}"
            return self._report(node, path, message)
        return self._report(node, path, f"must not have the tag {node.tag.replace(TAG, '!!')}")

    def _mapping(self, node, path, enclosing):
        tree, lines = {}, {}
        for key_node, value_node in node.value:
            key = getattr(key_node, "value", None)
            if key_node.tag != f"{TAG}str" or not is_key(key):
                self._report(key_node, path, f"a key must be a word, got {format_value(key)}")
                continue
            key_path, line = (*path, key), key_node.start_mark.line + 1
            if key in lines:
                message = f"duplicate key, also on line {lines[key]}; remove one of them"
                self._report(key_node, key_path, message)
                continue
            lines[key] = self.lines[key_path] = line
            tree[key] = self.read(value_node, key_path, enclosing)
        return tree

    def _report(self, node, path, message):
        where = f"{self.name}:{node.start_mark.line + 1}"
        self.problems.append(Problem(where, key_of(path), message))


def is_key(value):
    """Whether a value can be a key."""
    is_text = isinstance(value, str) and not UNSEEN.search(value)
    return is_text and len(value) <= MAX_KEY_LENGTH


INVALID = object()


def scalar(kind, text):
    """Converts a scalar.

    Args:
        kind: a key of `EXPECTED`.
        text: the scalar as it is written.

    Returns:
        `None`, a boolean, a number or a string; `INVALID` if the text is not of this kind.
    """
    if kind == "str":
        return INVALID if UNSEEN.search(text) else text
    if not PATTERNS[kind].fullmatch(text):
        return INVALID
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    digits = text.replace("_", "").lower()
    if kind == "int":
        return int(digits) if len(digits.lstrip("+-")) <= MAX_DIGITS else INVALID
    if digits.endswith((".inf", ".nan")):
        return float(digits.replace(".", ""))
    value = float(digits)
    return value if math.isfinite(value) else INVALID


def quoted(text):
    """Quotes text as a YAML string."""
    return "'" + text.replace("'", "''") + "'"


def dump(tree):
    """Dumps a tree as YAML, which `parse` reads back unchanged. Keys keep their order."""
    return yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
