"""Parts of pages that are generated with the site: commands, config keys, navigation.

A line such as `<!-- generated: commands -->` in a page marks the place.
"""

import inspect
import re
from pathlib import Path

from typer.main import get_command

from tfmoe.cli import app as command_line
from tfmoe.config.keys import config_keys, default_text

MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
CODE = re.compile(r"(`+.+?`+)", re.DOTALL)
SPECIAL = re.compile(r"([\\*_<>$\[\]{}|#])")


def escaped(text):
    """Plain text as Markdown; text in backticks remains code."""
    parts = CODE.split(text)
    return "".join(part if i % 2 else SPECIAL.sub(r"\\\1", part) for i, part in enumerate(parts))


def definitions(pairs):
    """A definition list of `(term, text)`, whose terms are Markdown."""
    return "\n".join(f"{term}\n: {escaped(text)}\n" for term, text in pairs)


def commands():
    """The help of all commands, with one section per command."""
    main = get_command(command_line)
    context = main.make_context("tfmoe", [], resilient_parsing=True)
    parts = [help_text(main.help), definitions(parameters(main, context))]
    for name, command in main.commands.items():
        inner = type(context)(command, info_name=name, parent=context)
        usage = command.get_usage(inner).removeprefix("Usage: ")
        parts += [f"## tfmoe {name}", help_text(command.help), f"```text\n{usage}\n```"]
        parts += [definitions(parameters(command, inner))]
    return "\n\n".join(parts)


def parameters(command, context):
    """Yields `(term, text)` for each argument and option of a command, `--help` last."""
    for parameter in command.get_params(context):
        term, text = parameter.get_help_record(context)
        yield f"`{' '.join(term.split())}`", text


def help_text(text):
    """The help of a command as Markdown: indented lines after a `\\b` are a script."""
    parts = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        first, _, rest = paragraph.removeprefix("\b\n").partition("\n")
        is_script = paragraph.startswith("\b\n") and all(
            line.startswith("  ") for line in rest.split("\n")
        )
        if is_script:
            parts += [escaped(first), f"```text\n{inspect.cleandoc(rest)}\n```"]
        else:
            parts.append(escaped(f"{first}\n{rest}"))
    return "\n\n".join(parts)


def keys():
    """All keys of a config, with one section per path and one subsection per name."""
    parts, path = [], None
    for section in config_keys():
        if section.paths != path:
            path = section.paths
            parts.append(f"## {escaped(', '.join(path)) or 'The sections of a config'}")
        if section.name:
            parts.append(f"### {escaped(section.name)}")
        parts += [escaped(section.summary)]
        parts += [definitions(map(key_definition, section.keys))]
    return "\n\n".join(parts)


def key_definition(key):
    """The `(term, text)` of a `tfmoe.config.keys.Key`."""
    meaning = f"{key.meaning[:1].upper()}{key.meaning[1:]}"
    return f"`{key.key}: {default_text(key)}` — {escaped(key.type)}", meaning


DOCS = Path(__file__).parents[1]
# The order of pages in the navigation. Other pages follow these.
ORDER = {
    "guides": [
        "guides/installation",
        "guides/your_own_keras_model",
        "guides/the_layer_in_detail",
        "guides/a_transformer",
        "guides/transformers",
        "guides/choose_a_gate",
        "guides/choose_experts",
        "guides/add_a_gate",
        "guides/several_tasks",
        "guides/compare_systems",
        "guides/your_own_text",
        "guides/the_papers_models",
        "guides/the_classics",
        "guides/inspect_experts",
        "guides/diagnose_a_run",
        "guides/upcycle_and_prune",
        "guides/several_devices",
        "guides/xla",
        "guides/keras_hub",
        "guides/export_and_serve",
        "guides/tensorflow_serving",
        "guides/other_runtimes",
        "guides/huggingface_weights",
        "troubleshooting",
    ],
    "explanation": [
        "the_paper",
        "architecture",
        "distribution",
        "measurements",
        "../CONTRIBUTING",
        "../CHANGELOG",
    ],
}
FOLDERS = {"guides": "guides/*.md", "explanation": "*.md"}


def navigation(part):
    """The `toctree` of all pages in a part of the site."""
    others = sorted(
        path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.glob(FOLDERS[part])
    )
    listed = {"index", "README", *ORDER["guides"], *ORDER["explanation"]}
    pages = [page for page in ORDER[part] if (DOCS / f"{page}.md").exists()]
    pages += [page for page in others if page not in listed]
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {part.title()}", "", *pages, "```"])


GENERATORS = {
    "commands": commands,
    "keys": keys,
    "guides": lambda: navigation("guides"),
    "explanation": lambda: navigation("explanation"),
}


def with_generated(text):
    """The text of a page including its generated parts."""
    return MARKER.sub(lambda match: GENERATORS[match.group(1)](), text)


def fill(app, name, source):
    """Inserts the generated parts into a page. Called by Sphinx."""
    source[0] = with_generated(source[0])


def write_front_page(app, error):
    """Writes an index.html that redirects to the root page. Called by Sphinx."""
    if error is None and app.builder.name == "html":
        page = f"{app.config.root_doc}.html"
        text = f'<meta http-equiv="refresh" content="0; url={page}"><a href="{page}">tfmoe</a>\n'
        (Path(app.outdir) / "index.html").write_text(text, encoding="utf-8")


def setup(app):
    """Registers the generation. Called by Sphinx."""
    app.connect("source-read", fill)
    app.connect("build-finished", write_front_page)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
