"""Links from pages to other files of the repository: Markdown links such as
`../tfmoe/gating/gate.py#L40`, and names in backticks such as `tfmoe/gating/gate.py::Gate`.

The site gets a page for each target: the text of a file with line numbers, or the list of files in
a folder.
"""

import html
import os
import re
from pathlib import Path

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import TextLexer, get_lexer_for_filename
from pygments.util import ClassNotFound

LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
DEFINITION = re.compile(r"(?<!`)`([\w/.-]+\.py)::(\w+)`(?!`)")
FENCE = re.compile(r"^(```.*?^```)$", re.DOTALL | re.MULTILINE)
FOLDER = "sources"


def with_source_links(text, page, root, is_page, link):
    """Rewrites links of a Markdown text to files of the repository.

    Args:
        text: Markdown.
        page: `Path` of the file of the text.
        root: `Path` to which names in backticks are relative.
        is_page: function of a `Path`: whether it is a page of the site.
        link: function of a `Path` and a fragment ("" or `#L40`) that returns the new target.
    """

    def file_link(match):
        name, target, fragment = match.groups()
        path = Path(os.path.normpath(page.parent / target))
        if not path.exists() or is_page(path):
            return match.group(0)
        return f'<a href="{link(path, fragment or "")}">{name}</a>'

    def definition_link(match):
        path, name = root / match.group(1), match.group(2)
        line = line_of(name, path)
        code = match.group(0)
        return f'<a href="{link(path, f"#L{line}")}">{code}</a>' if line else code

    parts = FENCE.split(text)
    return "".join(
        part if i % 2 else DEFINITION.sub(definition_link, LINK.sub(file_link, part))
        for i, part in enumerate(parts)
    )


def line_of(name, path):
    """The line of a Python file with the definition of a name; `None` if there is none."""
    definition = re.compile(rf" *(?:class |def )?{re.escape(name)}\b *(?:[(:=]|$)")
    lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
    return next((i for i, line in enumerate(lines, 1) if definition.match(line)), None)


def source_page(path, root):
    """The HTML page of a file or a folder below `root`."""
    name = html.escape(path.relative_to(root).as_posix())
    formatter = HtmlFormatter(linenos="inline", lineanchors="L", full=True, title=name)
    if path.is_dir():
        files = sorted(file.name for file in path.iterdir() if not file.name.startswith((".", "_")))
        return highlight("\n".join(files) + "\n", TextLexer(), formatter)
    try:
        lexer = get_lexer_for_filename(path.name)
    except ClassNotFound:
        lexer = TextLexer()
    return highlight(path.read_text(encoding="utf-8"), lexer, formatter)


def rewrite(app, docname, source):
    """Rewrites the links of a page. Called by Sphinx."""
    root, page = Path(app.srcdir), Path(app.env.doc2path(docname))
    if page.suffix != ".md":
        return

    def is_page(path):
        name = path.relative_to(root).as_posix() if path.is_relative_to(root) else ""
        return os.path.splitext(name)[0] in app.env.found_docs

    def link(path, fragment):
        name = f"{FOLDER}/{path.relative_to(root).as_posix()}.html"
        target = Path(app.outdir) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source_page(path, root), encoding="utf-8")
        above = "../" * docname.count("/")
        return f"{above}{name}{re.sub('^#L', '#L-', fragment)}"

    source[0] = with_source_links(source[0], page, root, is_page, link)


def setup(app):
    """Registers the rewriting. Called by Sphinx."""
    app.connect("source-read", rewrite)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
