"""Formulas as MathML, which browsers render without scripts or fonts from the network."""

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml


def mathml(tex, as_block=False):
    """Converts a TeX formula to MathML."""
    return tex2mathml(tex.replace(r"\dots", r"\ldots"), as_block=as_block)


def visit_inline(translator, node):
    """Writes a formula within a line of text."""
    translator.body.append(mathml(node.astext()))
    raise nodes.SkipNode


def visit_block(translator, node):
    """Writes a formula as a separate paragraph."""
    translator.body.append(f"<p>{mathml(node.astext(), as_block=True)}</p>")
    raise nodes.SkipNode


def setup(app):
    """Registers the renderer. Called by Sphinx."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.config.html_math_renderer = "mathml"
    return {"parallel_read_safe": True, "parallel_write_safe": True}
