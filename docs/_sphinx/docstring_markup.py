"""Converts docstrings to reStructuredText for Sphinx.

The docstrings of tfmoe are written like Markdown: a name in backticks is code, an indented
paragraph after a colon is a script, and every other character is literal. Napoleon handles sections
such as `Args:`.
"""

import re

CODE = re.compile(r"(`+)(.+?)\1", re.DOTALL)
NAME = re.compile(r"tfmoe(\.\w+)+")  # shown as a link
SPECIAL = re.compile(r"([\\*|]|(?<=\w)_(?!\w))")
# Text that would begin a numbered list, such as the `n.` of `num_experts: n.`.
NUMBER = re.compile(r"^( *\w[\w, *]*: )(?=\w\.(\s|$))", re.MULTILINE)
BULLET = re.compile(r"\s*[-*] ")
HEADING = re.compile(r"[A-Z]\w+( \w+)?:")


def as_rst(text):
    """Converts a docstring to reStructuredText.

    Args:
        text: a docstring without indentation.

    Returns:
        The same lines with the markup of reStructuredText: double backticks, backslashes, and empty
        lines around lists. Examples (`>>>`) do not change.
    """
    paragraphs, before = [], ""
    for paragraph in re.split(r"\n\s*\n", text):
        if is_script(paragraph, before):
            paragraphs[-1] += ":"
            paragraphs.append(paragraph)
        elif ">>>" in paragraph:
            paragraphs.append(paragraph)
        else:
            paragraphs.append(with_gaps(marked_up(paragraph)))
        before = paragraph
    return "\n\n".join(paragraphs)


def is_script(paragraph, before):
    """Whether a paragraph is indented after a paragraph that ends with a colon."""
    ends = before.rstrip().endswith(":") and not HEADING.fullmatch(before.strip())
    return ends and depth(paragraph.split("\n")[0]) >= depth(before.split("\n")[-1]) + 4


def depth(line):
    """The width of a line's indentation."""
    return len(line) - len(line.lstrip())


def marked_up(text):
    """Text with code as literals, and with other markup characters escaped."""
    pieces, end = [], 0
    for code in CODE.finditer(text):
        words = " ".join(code.group(2).split())
        literal = f":py:obj:`{words}`" if NAME.fullmatch(words) else f"``{words}``"
        # A literal must not touch a letter; backslash and space separate them without output.
        before = "\\ " if text[code.start() - 1 : code.start()].strip(" \n([{") else ""
        after = "\\ " if re.match(r"[\w\"(\[{<]", text[code.end() : code.end() + 1]) else ""
        pieces += [escaped(text[end : code.start()]), before, literal, after]
        end = code.end()
    return "".join([*pieces, escaped(text[end:])])


def escaped(text):
    """Text with markup characters escaped, except those of a list at the beginning of a line."""
    text = NUMBER.sub(r"\1\\", SPECIAL.sub(r"\\\1", text))
    return re.sub(r"^(\s*)\\\*(?= )", r"\1*", text, flags=re.MULTILINE)


def with_gaps(text):
    """Text with an empty line before each list."""
    lines, before = [], ""
    for line in text.split("\n"):
        begins = BULLET.match(line) and not BULLET.match(before) and depth(before) <= depth(line)
        if begins and before.strip():
            lines.append("")
        lines.append(line)
        before = line
    return "\n".join(lines)
