"""Python source code as sentences of tokens."""

import io
import keyword
import re
import token
import tokenize

from tfmoe.data_pipelines.installed_sources import python_files, read_source

SHORTEST, LONGEST = 8, 50  # tokens in a sentence
LINE_END = ";"
STRING, NUMBER = '""', "0"

# Python 3.12 and later divide an f-string into tokens.
_F_STRING = {
    getattr(token, name, None): step for name, step in (("FSTRING_START", 1), ("FSTRING_END", -1))
}
_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|_+|\W+|.")
_SKIPPED = {token.COMMENT, token.NL, token.INDENT, token.DEDENT, token.ENCODING, token.ENDMARKER}
_SHORT_STRING = re.compile(r"[a-z]{1,12}")


def python_sentences(packages):
    """Yields pieces of source code, each once: consecutive lines up to about fifty tokens.

    Comments and docstrings are left out, and a line end is written `;`. Names are split at
    underscores (which stay) and capitals, and put in lower case; strings are `""` unless they are a
    short lower-case name, numbers of more than two digits `0`. A piece never goes beyond the
    beginning of a function or class.

    Args:
        packages: names of top-level packages to read after the standard library.

    Yields:
        Lists of 8 to 50 tokens.
    """
    seen = set()
    for file in python_files(packages):
        for words in source_sentences(read_source(file)):
            key = " ".join(words)
            if key not in seen:
                seen.add(key)
                yield words


def source_sentences(source):
    """Yields the sentences of one source text; of one which cannot be parsed, those before the
    error.
    """
    piece = []
    for line in _logical_lines(source):
        if piece and (line[0] in {"def", "class", "@"} or len(piece) + len(line) > LONGEST):
            if len(piece) >= SHORTEST:
                yield piece
            piece = []
        if len(line) <= LONGEST:  # longer ones are tables of constants
            piece = piece + line
    if len(piece) >= SHORTEST:
        yield piece


def _logical_lines(source):
    """Yields the words of each logical line, docstrings left out."""
    line, kinds = [], []
    try:
        for kind, text in _tokens(source):
            if kind in _SKIPPED:
                continue
            if kind == token.NEWLINE:
                if any(kind != token.STRING for kind in kinds):
                    yield [*line, LINE_END]
                line, kinds = [], []
                continue
            kinds.append(kind)
            line.extend(_words(kind, text))
    except (tokenize.TokenError, SyntaxError):
        return


def _tokens(source):
    """Yields kind and text of each token; an f-string is one string, whatever is within it."""
    depth, parts = 0, []
    for kind, text, *_ in tokenize.generate_tokens(io.StringIO(source).readline):
        step = _F_STRING.get(kind, 0)
        depth += step
        if depth or step:
            parts.append(text)
            if not depth:
                yield token.STRING, "".join(parts)
                parts = []
        else:
            yield kind, text


def _words(kind, text):
    """Returns the words that stand for one token of source code."""
    if kind == token.NAME and not keyword.iskeyword(text):
        return [part.lower() if not part.startswith("_") else "_" for part in _PART.findall(text)]
    if kind == token.NUMBER:
        return [text if len(text) <= 2 else NUMBER]
    if kind == token.STRING:
        value = text.lstrip("rbfuRBFU").strip("\"'")
        return ["'", value, "'"] if _SHORT_STRING.fullmatch(value) else [STRING]
    return [text]
