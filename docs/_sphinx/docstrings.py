"""Settings with which Sphinx reads and shows the docstrings of tfmoe."""

import inspect

from docstring_markup import as_rst
from docutils import nodes

# Sections that napoleon does not know or formats differently, with the format to use.
SECTIONS = [
    ("Attributes", "params_style"),
    ("Attributes for subclasses", "params_style"),
    ("Call arguments", "params_style"),
    ("Keys", "params_style"),
]


def convert(app, what, name, obj, options, lines):
    """Converts a docstring in place, before napoleon reads its sections. Called by Sphinx."""
    lines[:] = as_rst("\n".join(lines)).split("\n")
    if what in ("attribute", "data", "property"):
        # An empty comment: otherwise napoleon takes the text before a colon in the first line for
        # a type.
        lines[:0] = ["..", ""]


def skip(app, what, name, obj, is_skipped, options):
    """Leaves out the fields of named tuples, which the docstring of the class describes. Called
    by Sphinx.
    """
    return True if str(obj.__doc__).startswith("Alias for field number") else None


def signature(app, what, name, obj, options, signature, returns):
    """The signature of the `__init__` of a class, because Keras' `__new__` takes any arguments.
    Called by Sphinx.
    """
    if what != "class" or signature != "(*args, **kwargs)":
        return None
    parameters = [*inspect.signature(obj.__init__).parameters.values()][1:]
    return f"{inspect.Signature(parameters)}", returns


def with_dashes(app, doctree, docname):
    """Writes a dash between an argument and its meaning. Called by Sphinx."""
    for body in doctree.findall(nodes.field_body):
        for text in body.findall(nodes.Text):
            if text.startswith(" -- "):
                text.parent.replace(text, nodes.Text(f" – {text[4:]}"))


def setup(app):
    """Registers the conversion. Called by Sphinx."""
    app.connect("autodoc-process-docstring", convert, priority=400)
    app.connect("autodoc-skip-member", skip)
    app.connect("autodoc-process-signature", signature)
    app.connect("doctree-resolved", with_dashes)
    app.config.napoleon_custom_sections = SECTIONS
    return {"parallel_read_safe": True, "parallel_write_safe": True}
