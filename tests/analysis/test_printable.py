import csv
import io

import pytest
from matplotlib.figure import Figure

from tfmoe.analysis.columns import aligned
from tfmoe.analysis.printable import cell, plot_text, printable

TEXTS = ["", "a", "$x$", "$\\frac{$", r"\$5 and $6$", "=1+1", "'s", "''", "-", "\x1b[31mred"]


def test_control_characters_are_escaped():
    assert printable("\x1b[2Jgone\r\n\x00\x7f\x9b0m") == r"\x1b[2Jgone\r\n\x00\x7f\x9b0m"
    assert printable("a\u202eb\u2028\udcff") == r"a\u202eb\u2028\udcff"
    assert printable("two\nlines\t\x07", keep="\n\t") == "two\nlines\t\\x07"
    for kept in ("naïve · 中文 …", "می\u200cخواهم", "👩\u200d🔬", "\\n", "a\u00a0b"):
        assert printable(kept) == kept


def test_column_widths_count_escape_sequences():
    assert aligned([["\x1b", "1"], ["abcdef", "2"]], "<>") == "\\x1b    1\nabcdef  2"


@pytest.mark.parametrize("text", TEXTS)
def test_plots_show_text_literally(text):
    """Matplotlib raises for invalid mathematics; the plot shows the characters themselves."""
    figure = Figure()
    shown = figure.text(0, 0, plot_text(text))
    figure.savefig(io.BytesIO(), format="png")
    plain = figure.text(0, 0, printable(text), parse_math=False)
    assert shown.get_window_extent().width == plain.get_window_extent().width


@pytest.mark.parametrize("text", [*TEXTS, "\tx", "\rx", "\nx", "@SUM(1)", "+1", "＝1", "＠x"])
def test_cells_are_not_formulas(text):
    file = io.StringIO()
    csv.writer(file).writerow([cell(text), -0.5])
    ((field, value),) = csv.reader(io.StringIO(file.getvalue(), newline=""))
    assert not field.startswith(("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"))
    assert field.removeprefix("'") == text
    assert float(value) == -0.5
