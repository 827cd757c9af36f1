"""Reads the pages of the documentation: command blocks, links and headings."""

import json
import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
SKIPPED = {"_build", "_sphinx", "_static"}  # folders of docs/
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)
MARK = re.compile(r"<!-- (not run|run with): ((?:(?!-->).)+?) -->\n\Z", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+?) *$", re.MULTILINE)
# What is quoted in a shell script, or a comment.
QUOTED_OR_COMMENT = re.compile(r"""'[^']*'|"[^"]*"|(?<!\S)#[^\n]*""")
SEPARATORS = {";", "|", "||", "&&", "&", "\n"}


class Block(NamedTuple):
    """A fenced block of a page.

    Attributes:
        language: what stands after the fence, `python`, `sh`, …
        text: without fences.
        line: of the page, from 1, where the text begins.
        reason: why it is not run; `None` if it is.
        options: to be added to its `tfmoe` commands.
    """

    language: str
    text: str
    line: int
    reason: str | None = None
    options: str = ""


def pages():
    """Returns the Markdown pages of the repository, sorted."""
    docs = [
        path
        for path in (ROOT / "docs").glob("**/*.md")
        if SKIPPED.isdisjoint(path.relative_to(ROOT).parts)
    ]
    return sorted([*ROOT.glob("*.md"), *docs, ROOT / "notebooks" / "README.md"])


def blocks(text):
    """Returns the `Block`s of a Markdown text, also those in HTML comments, in order."""
    found = []
    for fence in FENCE.finditer(text):
        mark = MARK.search(text[: fence.start()])
        kind, value = mark.groups() if mark else (None, "")
        found.append(
            Block(
                fence.group(1),
                fence.group(2),
                text.count("\n", 0, fence.start(2)) + 1,
                value if kind == "not run" else None,
                value if kind == "run with" else "",
            )
        )
    return found


def without_comments(script):
    """Returns a shell script without its comments."""
    return QUOTED_OR_COMMENT.sub(lambda m: "" if m.group()[0] == "#" else m.group(), script)


def commands(script):
    """Returns the simple commands of a shell script, each a list of words, without assignments
    before them, redirections and comments.
    """
    text = without_comments(script.replace("\\\n", " "))
    lexer = shlex.shlex(text, posix=True, punctuation_chars=";|&<>\n")
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    found, words, skip = [], [], False
    for token in [*lexer, "\n"]:
        if token in SEPARATORS or set(token) <= {"\n"}:
            found += [words] if words else []
            words, skip = [], False
        elif skip or set(token) <= {"<", ">"}:
            skip = not skip
        elif words or not re.match(r"\w+=", token):
            words.append(token)
    return found


def tfmoe_arguments(words):
    """The arguments of `tfmoe` in a command, also where another program starts it; `None` if it is
    not in it.
    """
    if words[1:3] == ["-m", "tfmoe"]:
        return words[3:]
    return words[words.index("tfmoe") + 1 :] if "tfmoe" in words else None


def text_of(path):
    """The Markdown of a page; of a notebook that of its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return text
    cells = json.loads(text)["cells"]
    return "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def links(text):
    """Returns the targets of links and images of a Markdown text, code left out."""
    return LINK.findall(re.sub(r"`[^`\n]*`", "", FENCE.sub("", text)))


def anchors(text):
    """Returns the anchors of the headings of a Markdown text, as GitHub and MyST make them."""
    found = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("\\", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(f"{slug}-{number}" if number else slug)
    return found
