"""The interface of records, and the texts of their columns."""

import abc
import difflib
import itertools

from tfmoe.data_pipelines.reading import TextError

MAX_DEPTH = 8  # of the nested columns in `names_in`
MAX_LISTED = 30  # column names in an error


class Records(abc.ABC):
    """The records of one file, or of one split of a data set.

    Args:
        name: name for messages, such as `"my/a.jsonl"` or `"wikitext[train]"`.
        title: short name that can be part of a file's name.
        identity: string that identifies the records, such as an absolute path.

    Attributes:
        count: number of records; `None` if it is unknown before reading.
    """

    count = None

    def __init__(self, name: str, title: str, identity: str):
        self.name, self.title, self.identity = name, title, identity

    @abc.abstractmethod
    def state(self):
        """Returns a JSON value that changes when the records change; `None` if that cannot be
        determined.
        """

    @abc.abstractmethod
    def columns(self) -> list[str]:
        """Returns the names of the columns; a nested column is `"translation.de"`.

        Raises:
            TextError: if the records cannot be read.
        """

    @abc.abstractmethod
    def read(self, columns):
        """Yields `(number from 1, record)`. A record is a dictionary, which may be nested.

        Args:
            columns: names of the needed columns; others may be missing in the records.

        Raises:
            TextError: if the records cannot be read.
        """

    def place(self, number: int) -> str:
        """Returns the name of a record in messages, from its number."""
        return f"{self.name}: row {number}"


def value_of(record, column):
    """Returns the value of a column, `"text"` or `"translation.de"`, of a record.

    Raises:
        KeyError: if the record has no such column.
    """
    if column in record:
        return record[column]
    first, dot, rest = column.partition(".")
    inner = record[first] if dot else None
    if not isinstance(inner, dict):
        raise KeyError(column)
    return value_of(inner, rest)


def names_in(record, depth=MAX_DEPTH):
    """Returns the names of a record's columns; a nested column is `"translation.de"`."""
    names = []
    for key, value in record.items():
        nested = names_in(value, depth - 1) if isinstance(value, dict) and depth > 1 else []
        names += [f"{key}.{inner}" for inner in nested] or [str(key)]
    return names


def choose_columns(records, candidates):
    """Returns the columns to read.

    Args:
        records: a `Records`.
        candidates: `{setting: names}`: the possible names for each setting; the first that is a
            column is used.

    Returns:
        List of names, one per setting.

    Raises:
        TextError: if none of a setting's names is a column; the message lists the columns.
    """
    columns = records.columns()
    return [_first(records, columns, setting, names) for setting, names in candidates.items()]


def _first(records, columns, setting, names):
    for name in names:
        if name in columns:
            return name
    raise TextError(_no_column(records.name, columns, names, f" (data.{setting})"))


def _no_column(place, columns, names, setting=""):
    listed = ", ".join(columns[:MAX_LISTED]) + (", …" if len(columns) > MAX_LISTED else "")
    near = difflib.get_close_matches(names[0], columns, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    asked = " or ".join(map(repr, names))
    return f"{place}: there is no column {asked}{setting}{hint} The columns are: {listed or 'none'}"


def texts(records, columns):
    """Yields `(number from 1, list of the columns' texts)` of each record; null is `""`.

    Args:
        records: a `Records`.
        columns: list of names.

    Raises:
        TextError: if a record lacks a column, or the column is not text.
    """
    for number, record in records.read(columns):
        yield number, [_text(records, number, record, column) for column in columns]


def _text(records, number, record, column):
    try:
        value = value_of(record, column)
    except KeyError:
        raise TextError(_no_column(records.place(number), names_in(record), [column])) from None
    if isinstance(value, str):
        _check_unicode(records, number, column, value)
        return value
    if value is None:
        return ""
    raise TextError(
        f"{records.place(number)}: column {column!r} must be text, got {_shown(value)} of type"
        f" {type(value).__name__}"
    )


def _check_unicode(records, number, column, text):
    """Raises `TextError` for an unpaired surrogate, which is valid in JSON but not in UTF-8."""
    try:
        text.isascii() or text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TextError(
            f"{records.place(number)}: column {column!r} is not Unicode text: character"
            f" {error.start + 1} is {text[error.start]!r}"
        ) from None


def _shown(value):
    if isinstance(value, dict):  # a column with nested columns
        value = dict(itertools.islice(value.items(), 3))
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
