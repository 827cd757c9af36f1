"""The report of `tfmoe inspect` as a single HTML page, without scripts or external files.

Every text goes through `html.escape`; plots are embedded images.
"""

import base64
import html
import io
import pathlib

from tfmoe.analysis.plots import perplexity_curves
from tfmoe.analysis.printable import printable
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.inspection import over_mean
from tfmoe.inspection.plots import (
    balance_curves,
    co_selection_map,
    label_map,
    load_and_importance,
)
from tfmoe.inspection.summary import headline, measure_rows, top_expert_rows, visible

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: #fff;
  color: #1a1a1a;
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 3rem 0 .25rem; padding-top: 1rem;
  border-top: 2px solid #1a1a1a; overflow-wrap: anywhere; }
h3 { font-size: 1.05rem; margin: 2rem 0 .25rem; }
p { max-width: 44rem; margin: .25rem 0 .75rem; }
.quiet { color: #595959; font-size: .9rem; overflow-wrap: anywhere; }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .75rem 1.5rem; margin: 1.25rem 0; }
dl div { border-left: 3px solid #1f77b4; padding-left: .6rem; }
dt { color: #595959; font-size: .85rem; }
dd { margin: 0; font-size: 1.1rem; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
h4 { font-size: 1rem; margin: 1rem 0 0; }
.plots, .experts { display: grid; gap: 1.5rem; align-items: start; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.experts { gap: .5rem 2rem; }
.experts > div { min-width: 0; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-width: 34rem; height: auto; }
figcaption { color: #595959; font-size: .9rem; max-width: 34rem; }
.wide { overflow-x: auto; margin: .5rem 0 1rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem .3rem 0; text-align: left; vertical-align: top;
  border-bottom: 1px solid #e2e2e2; }
th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.contexts td { border-bottom-color: #f0f0f0; padding-top: .15rem; padding-bottom: .15rem; }
.contexts .before { text-align: right; padding-right: .35rem; }
.contexts b { background: #fff0c8; padding: 0 .2rem; }
@media (max-width: 40rem) {
  .figures th { white-space: normal; }
}
"""


def write(report, path):
    """Writes a `Report` as an HTML page.

    Args:
        report: a `Report`.
        path: path of the HTML file.
    """
    text = page(report)
    with atomic_write(path) as file:
        file.write(text)


def page(report):
    """The HTML page of a `Report`, a string."""
    name = report.run.path.resolve().name
    history = report.run.read_history()
    parts = [
        f"<h1>What the experts of {escape(name)} do</h1>",
        f'<p class="quiet">On {escape(file_names(report.files))}</p>',
        run_facts(report, history),
        training_section(history),
        *(layer_section(layer, report) for layer in report.layers),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Experts of {escape(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def file_names(files, max_names=4):
    """The names of files without their folders, which may be private.

    Args:
        files: list of paths.
        max_names: maximum number of names; further files are counted only.
    """
    names = list(dict.fromkeys(pathlib.Path(file).name for file in files))
    more = f" and {len(names) - max_names} more" if len(names) > max_names else ""
    return ", ".join(names[:max_names]) + more


def run_facts(report, history):
    """A list of facts about the run."""
    cost, result = report.cost, report.result
    values = {
        "weights": report.weights,
        "sentences read": f"{report.sentences:,}",
        "parameters": f"{cost['parameters']['total']:,}",
        "of these in experts": f"{cost['parameters']['experts']:,}",
        "multiply-adds for a token": f"{cost['ops_per_timestep']:,}",
    }
    if "perplexity" in result:
        values[f"{result.get('evaluated_on', 'test')} perplexity"] = f"{result['perplexity']:.2f}"
    if "bleu" in result:
        values["BLEU"] = f"{result['bleu']:.2f}"
    if history:
        values["epochs"] = f"{len(history)}"
        values["words trained on"] = f"{sum(row.get('words', 0) for row in history):,.0f}"
    items = (
        f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>"
        for key, value in values.items()
    )
    return f"<dl>\n{chr(10).join(items)}\n</dl>"


def training_section(history):
    """The section with learning curves."""
    if not history:
        return '<p class="quiet">The run has no history of its epochs.</p>'
    plots = [
        figure(
            perplexity_curves({"this run": history}, size=(5, 3.4)),
            "Validation perplexity during training.",
        ),
        figure(
            balance_curves(history),
            "Largest expert load over the mean load in training and validation batches: 1 is even.",
        ),
    ]
    return f'<h2>Training</h2>\n<div class="plots">\n{"".join(plots)}</div>'


def layer_section(layer, report):
    """The section on one mixture."""
    plots = [
        figure(
            load_and_importance(layer.use),
            "Tokens that each expert receives (load), and the sum of their gate values "
            "(importance).",
        )
    ]
    if len(layer.pairs.pairs.counts):
        plots.append(
            figure(
                co_selection_map(layer.pairs),
                "Tokens that two experts share, relative to chance: red is more often than by "
                "chance, blue less often.",
            )
        )
    if layer.labels:
        names, shares, text_shares = layer.labels
        if len(names) <= 30:
            kind = report.label_kind
            caption = (
                f"Share of each {kind} in an expert's tokens, relative to the whole text: red is "
                "more often, blue less often."
            )
            plots.append(figure(label_map(names, shares, text_shares), caption))
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>\n'
        for name, value in measure_rows(layer, report)
    )
    parts = [
        f"<h2>{escape(layer.name)}</h2>",
        f'<p class="quiet">{escape(headline(layer, report))}</p>',
        f'<div class="wide"><table class="figures">\n{rows}</table></div>',
        '<p class="quiet">Bits are mutual information: choose a random position of the text and '
        "one of its experts in proportion to the gate values; this is how many bits the expert "
        "reveals about the token or label. Shuffled is the same after shuffling tokens over "
        "positions, or labels over lines: the value that chance alone gives on a text of this "
        "length.</p>",
        f'<div class="plots">\n{"".join(plots)}</div>',
        "<h3>What special experts weigh highest</h3>",
        "<p>The positions of the text with the largest gate values G(x) of an expert, and the "
        "words around them, as in Table 9 of the paper. Repeated contexts are omitted.</p>",
        '<div class="experts">',
        *(context_section(expert, contexts, layer) for expert, contexts in layer.contexts.items()),
        "</div>",
        "<h3>Words that go to an expert more than elsewhere</h3>",
        expert_table(layer),
    ]
    return "\n".join(parts)


def context_section(expert, contexts, layer):
    """Table 9 for one expert."""
    load = over_mean(layer.use.load)[expert]
    words = " ".join(layer.words[expert])
    head = f"<div><h4>Expert {expert}</h4>\n" + (
        f'<p class="quiet">Load {load:.2f} of the mean. {escape(words)}</p>'
    )
    if not contexts:
        return f"{head}\n<p>It received no token.</p></div>"
    rows = "".join(
        f'<tr><td class="number">{context.gate:.3f}</td>'
        f'<td class="number">{context.sentence}</td>'
        f'<td class="before">{escape(context.before)}</td>'
        f"<td><b>{escape(visible(context.token))}</b></td>"
        f"<td>{escape(context.after)}</td></tr>\n"
        for context in contexts
    )
    return (
        f'{head}\n<div class="wide"><table class="contexts">\n'
        '<tr><th class="number">G(x)</th><th class="number">line</th><th></th><th></th>'
        f"<th></th></tr>\n{rows}</table></div></div>"
    )


def expert_table(layer):
    """The experts with the largest loads, with load, importance and characteristic words."""
    expert_rows, num_omitted = top_expert_rows(layer)
    rows = "".join(
        "<tr>"
        + "".join(f'<td class="number">{number}</td>' for number in numbers)
        + f"<td>{escape(words)}</td></tr>\n"
        for *numbers, words in expert_rows
    )
    more = ""
    if num_omitted:
        more = f'\n<p class="quiet">and {num_omitted:,} experts with less load</p>'
    return (
        '<div class="wide"><table>\n<tr><th class="number">expert</th>'
        '<th class="number">load</th><th class="number">importance</th><th>words</th></tr>\n'
        f"{rows}</table></div>{more}"
    )


def figure(plot, caption):
    """A plot with its caption, which is also the alternative text for screen readers."""
    buffer = io.BytesIO()
    plot.savefig(buffer, format="svg", metadata={"Date": None})
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
    )


def escape(text):
    """Escapes text for HTML; control characters become escape sequences."""
    return html.escape(printable(str(text)))
