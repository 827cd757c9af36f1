"""English sentences from the documentation inside the running Python installation."""

import ast
import collections
import pydoc_data.topics
import re

from tfmoe.data_pipelines.installed_sources import python_files, read_source
from tfmoe.data_pipelines.tokenization import tokenize

SHORTEST, LONGEST = 6, 60  # tokens in a sentence
SAME_OPENING = 12  # sentences that may begin with the same five words
FUNCTION_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "been", "but", "by", "can", "for", "from", "has",
    "have", "if", "in", "is", "it", "its", "may", "must", "not", "of", "on", "or", "should", "so",
    "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "were", "when",
    "which", "will", "with", "you", "your", "we",
})  # fmt: skip

_CODE = re.compile(
    r"^\s*(>>>|\.\.\.|\$ |#|@|\||\+[-=+]|[-=~^*#\"'_]{3,}|\.\. |:\w+|import |from \S+ import )"
    r"|::=|\s{3,}\S+\s{3,}"
)
_COMMENT = re.compile(r"(?m)(?:^[ \t]*# .{20,}\n)(?:^[ \t]*# .*\n)*")
# The beginning of a list item, of an entry of "Args:" and the like, and the line that names a NumPy
# parameter.
_ENTRY = re.compile(
    r"(?m)^\s*(?:[-*•]|\d+[.)])\s+"
    r"|^\s*(?:Args|Arguments|Returns?|Raises|Yields?|Notes?|Examples?):[ \t]*"
    r"|^\s*\*{0,2}\w+(?:, \*{0,2}\w+)*(?: ?\([^()\n]*\))?:\s+|^\s*\w+(?:, \w+)* : .*$"
)
_ROLE = re.compile(r":[a-z:]+:`~?([^`<]*?)(?:\s*<[^>]*>)?`")
_LINK = re.compile(r"\[([^\]]*)\](?:\([^)]*\)|\[[^\]]*\])|`([^`<]+?)\s*<[^>]*>`_+|https?://\S+")
_MARKUP = re.compile(r"``|`_*|\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)|</?\w+>")
_END = re.compile(r"(?<=[.?!])[\"')\]]*\s+(?=[\"'(\[]?[A-Z])")
_ABBREVIATION = re.compile(
    r"\b(?:e\.g|i\.e|etc|vs|cf|resp|Dr|Mr|Mrs|St|No|Fig|Eq|[A-Z])\.[\"')\]]*$"
)


def english_sentences(packages):
    """Yields tokenised sentences of English prose, each once, the best sources first.

    The sources are the language reference that Python carries for its `help`, then the docstrings
    of the standard library and of the given packages. Code examples, tables, headings and field
    lists are left out, and so is a sentence if too many others begin with the same words.

    Args:
        packages: names of top-level packages to read after the standard library.

    Yields:
        Lists of lower-case words and punctuation marks, 6 to 60 in number.
    """
    seen, openings = set(), collections.Counter()
    for document in _documents(packages):
        for paragraph in _paragraphs(document):
            for sentence in _split_sentences(paragraph):
                if not SHORTEST - 2 <= sentence.count(" ") < LONGEST:
                    continue
                words = tokenize(sentence)
                key = re.sub(r"\d+", "0", " ".join(words))
                opening = tuple(words[:5])
                if key in seen or openings[opening] >= SAME_OPENING or not is_prose(words):
                    continue
                seen.add(key)
                openings[opening] += 1
                yield words


def is_prose(words):
    """Whether a tokenised sentence reads like English: of usual length, made of words, some of them
    small ones.
    """
    if not SHORTEST <= len(words) <= LONGEST or words[-1] not in {".", "?", "!"}:
        return False
    letters = sum(word[0].isalpha() for word in words)
    ascii_words = all(word.isascii() for word in words)
    small = sum(word in FUNCTION_WORDS for word in words)
    return ascii_words and letters >= 0.75 * len(words) and small >= 0.15 * len(words)


def _documents(packages):
    """Yields texts: reference chapters, docstrings and comments."""
    yield from (pydoc_data.topics.topics[name] for name in sorted(pydoc_data.topics.topics))
    for file in python_files(packages):
        source = read_source(file)
        if '"""' in source or "'''" in source:
            try:
                yield from _docstrings(ast.parse(source))
            except (SyntaxError, ValueError, RecursionError):
                continue
        for comment in _COMMENT.findall(source):
            yield re.sub(r"(?m)^\s*#+ ?", "", comment)


def _docstrings(node):
    """Yields the docstrings in a syntax tree. Only statements are visited: expressions hold
    none.
    """
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
    for name in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, name, ()):
            if isinstance(child, (ast.stmt, ast.ExceptHandler)):
                yield from _docstrings(child)


def _paragraphs(document):
    """Yields the paragraphs of a document that are prose, each as one line without markup."""
    fenced = False
    for paragraph in re.split(r"\n\s*\n", document):
        fences = paragraph.count("```")
        if fences or fenced:
            fenced ^= fences % 2 == 1
            continue
        lines = paragraph.strip("\n").split("\n")
        if any(_CODE.search(line) for line in lines):
            continue
        for text in re.split(_ENTRY, "\n".join(lines)):
            text = _ROLE.sub(r"\1", " ".join(text.split()))
            text = _LINK.sub(lambda match: match[1] or match[2] or "", text)
            yield _MARKUP.sub("", text)


def _split_sentences(paragraph):
    """Yields the sentences of a paragraph: parts that begin with a capital letter."""
    begin = 0
    for match in [*_END.finditer(paragraph), None]:
        end = match.end() if match else len(paragraph)
        if match and _ABBREVIATION.search(paragraph[begin : match.end()].rstrip()):
            continue
        sentence = paragraph[begin:end].strip()
        begin = end
        if sentence[:1].isupper():
            yield sentence
