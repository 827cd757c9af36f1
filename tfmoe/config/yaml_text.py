"""YAML as configs use it: the safe subset, without the surprises of YAML 1.1, and with line
numbers.

Scalars are read by the rules of YAML 1.2: `1e-3` is a number, `no` (a language) and `12:30` are
text, only `true` and `false` are truth values. `1_000_000` is an integer, as in Python. Nothing in
a config can name a class or run code.
"""

import re

import yaml

from tfmoe.config.problems import ConfigError, Problem, key_of

MOST_VALUES = 100_000  # aliases of aliases can stand for more than any memory holds
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


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own protocol)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = {}  # noqa: RUF012

    def increase_indent(self, flow=False, indentless=False):
        return super().increase_indent(flow, False)  # lists indented below their key


for _tag, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first
        )


def parse(text, name):
    """Reads one YAML document.

    Args:
        text: string or bytes (UTF-8).
        name: what the text is called in errors: a file name, or `--set key=value`.

    Returns:
        `(tree, lines)`: dictionaries, lists and scalars; and the line, from 1, of every path in it,
        as `{("model", "blocks", 0): 7, …}`.

    Raises:
        ConfigError: if it is not YAML, a key stands twice in a mapping or is not text, or an alias
            contains itself.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None, {}
            lines, problems = {}, []
            _walk(node, (), name, lines, problems, enclosing=())
            if problems:
                raise ConfigError(problems[:20])
            return loader.construct_document(node), lines
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ConfigError([_syntax_problem(error, name)]) from error


def _syntax_problem(error, name):
    mark = getattr(error, "problem_mark", None)
    where = f"{name}:{mark.line + 1}" if mark else name
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    hint = "; quote a text that begins with *" if "alias" in f"{context} {what}" else ""
    return Problem(where, "", f"not valid YAML: {f'{context}, ' if context else ''}{what}{hint}")


def _walk(node, path, name, lines, problems, enclosing):
    """Notes the line of every path below a node, and what is wrong with keys."""
    where = f"{name}:{node.start_mark.line + 1}"
    lines.setdefault(path, node.start_mark.line + 1)
    if len(lines) > MOST_VALUES:
        problems.append(Problem(where, "", f"a config must have less than {MOST_VALUES:,} values"))
        return
    if node in enclosing:
        problems.append(Problem(where, key_of(path), "an alias must not contain itself"))
        return
    enclosing = (*enclosing, node)
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), name, lines, problems, enclosing)
    elif isinstance(node, yaml.MappingNode):
        seen = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag != "tag:yaml.org,2002:str":
                message = f"a key must be a word, got {getattr(key_node, 'value', '')!r}"
                problems.append(Problem(f"{name}:{line}", key_of(path), message))
                continue
            key_path = (*path, key_node.value)
            if key_node.value in seen:
                message = f"the key is already on line {seen[key_node.value]}; remove one of them"
                problems.append(Problem(f"{name}:{line}", key_of(key_path), message))
                continue
            seen[key_node.value] = line
            lines[key_path] = line
            _walk(value_node, key_path, name, lines, problems, enclosing)


def dump(tree):
    """YAML text of a tree, which `parse` reads back as it was. Keys keep their order."""
    return yaml.dump(
        tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False
    )
