"""`tfmoe tables`."""

import contextlib
import io
import json

import pytest

from tfmoe.cli import main

# All figures that differ by more than rounding.
EXPECTED = {
    ("Table 1", "MoE-34M (medium-budget)", "parameters"),
    ("Table 7", "2xLSTM-8192-1024", "parameters"),
    ("Table 7", "MoE-34M", "total"),
    ("Table 7", "MoE-256", "ops_per_timestep"),
} | {
    (f"Table {number}", row, column)
    for number, row in ((2, "GNMT"), (3, "GNMT"), (4, "GNMT"), (5, "GNMT-Mono"), (5, "GNMT-Multi"))
    for column in ("ops_per_timestep", "total")
}


def run(capfd, *arguments):
    """`(exit status, standard output, standard error)` of `tfmoe tables`."""
    with pytest.raises(SystemExit) as caught:
        main(["tables", *arguments])
    return (caught.value.code or 0, *capfd.readouterr())


@pytest.fixture(scope="module")
def rows():
    """All rows of `--json`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(["tables", "--json"])
    return json.loads(out.getvalue())


def row_of(rows, table, name):
    """One row of a table, by the table's number and the row's name."""
    (only,) = (row for row in rows if (row["table"], row["row"]) == (f"Table {table}", name))
    return only


def test_every_row(rows):
    count = {f"Table {n}": 0 for n in (1, 2, 3, 4, 5, 7, 8)}
    for row in rows:
        count[row["table"]] += 1
    assert list(count.values()) == [4, 3, 2, 2, 3, 15, 8]
    entries = {
        (row["table"], row["row"], column): row[column]
        for row in rows
        for column in ("ops_per_timestep", "parameters", "total")
    }
    # Table 1 has no total, Tables 2 to 5 have no parameters without embedding and softmax.
    missing = {"Table 1": "total"} | {f"Table {n}": "parameters" for n in (2, 3, 4, 5)}
    assert {key for key, entry in entries.items() if entry is None} == {
        (row["table"], row["row"], missing[row["table"]]) for row in rows if row["table"] in missing
    }
    outside = {key for key, entry in entries.items() if entry and not entry["within_rounding"]}
    assert outside == EXPECTED
    for key, entry in entries.items():
        if entry:
            assert all(isinstance(entry[name], int) for name in ("ours", "paper", "difference"))
            assert entry["difference"] == entry["ours"] - entry["paper"]
            assert (entry["reason"] is not None) == (key in EXPECTED)
            assert entry["reason"] != "not explained"


# Typed from the tables: operations and parameters in millions.
@pytest.mark.parametrize(
    ("table", "row", "ops", "parameters"),
    [
        ("1", "2xLSTM-8192-1024 (best published)", 151, 151),
        ("1", "MoE-4096-h (low-budget)", 8.9, 4303),
        ("1", "MoE-34M (medium-budget)", 33.8, 4313),
        ("1", "MoE-143M (high-budget)", 142.7, 4371),
        ("7", "MoE-1024-h", 8.5, 1079.0),
        ("8", "MoE-65536-h", 9.2, 68791.0),
    ],
)
def test_printed_figures(rows, table, row, ops, parameters):
    entry = row_of(rows, table, row)
    assert entry["ops_per_timestep"]["paper"] == pytest.approx(ops * 1e6)
    assert entry["parameters"]["paper"] == pytest.approx(parameters * 1e6)


# 5 LSTMs of 4·1024·2048 + 2048·512, 4·512·2048 for the context, 512·32768 for the softmax.
WITHOUT_MIXTURES = 47_185_920 + 4_194_304 + 16_777_216


@pytest.mark.parametrize(
    ("table", "row", "paper", "mixtures"),
    [
        ("2", "MoE 2048 experts", 85, 2 * 4 * 2 * 512 * 2048),
        ("2", "MoE 2048 experts, longer", 85, 2 * 4 * 2 * 512 * 2048),
        ("3", "MoE 2048 experts", 85, 2 * 4 * 2 * 512 * 2048),
        ("4", "MoE 2048 experts", 85, 2 * 4 * 2 * 512 * 2048),
        ("5", "MoE-Multi", 102, 2 * 2 * 2 * 512 * 8192),
    ],
)
def test_translation(rows, table, row, paper, mixtures):
    entry = row_of(rows, table, row)
    ours = WITHOUT_MIXTURES + mixtures
    assert entry["parameters"] is None
    assert entry["ops_per_timestep"] == {
        "ours": ours,
        "paper": paper * 10**6,
        "difference": ours - paper * 10**6,
        "within_rounding": True,
        "reason": None,
    }
    assert entry["total"]["paper"] == 8_700_000_000 and entry["total"]["within_rounding"]


@pytest.mark.parametrize(("table", "row", "paper"), [("3", "GNMT", 214), ("5", "GNMT-Mono", 212)])
def test_gnmt(rows, table, row, paper):
    entry = row_of(rows, table, row)
    # 15 LSTMs of 4·2048·1024, one that also reads the context, 1024·32768 for the softmax.
    ours = 15 * 8_388_608 + 12_582_912 + 33_554_432
    # A second LSTM in the first layer; 1024 more inputs of the second and of 7 decoder layers.
    missing = 8_388_608 + 8 * 4 * 1024 * 1024
    ops, total = entry["ops_per_timestep"], entry["total"]
    assert (ops["ours"], ops["paper"]) == (ours, paper * 10**6)
    assert round((ours + missing) / 1e6, 1) == 213.9 and "213.9" in ops["reason"]
    assert (total["paper"], total["within_rounding"]) == (278_000_000, False)
    assert f"{missing / 1e6:.1f} M" in total["reason"]
    assert round((total["ours"] + missing + 1024 * 32_768) / 1e6) == 283


def test_one_row(capfd):
    status, out, err = run(capfd, "--table", "Table 7", "--row", "MoE-256", "--json")
    assert (status, err) == (0, "")
    (row,) = json.loads(out)
    reason = row["ops_per_timestep"].pop("reason")
    assert row["ops_per_timestep"] == {
        "ours": 8_650_752,
        "paper": 8_600_000,
        "difference": 50_752,
        "within_rounding": False,
    }
    assert "8.65" in reason
    assert row["config"] == "lm1b/moe-256"


def test_text(capfd):
    status, out, _ = run(capfd, "--table", "7")
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["MoE-256", "lm1b/moe-256", "8.651", "8.6", "+0.051", "[3]", "272.896", "272.9",
            "-0.004", "1.086", "1.1", "-0.014"] in lines  # fmt: skip
    assert [line[0] for line in lines[-3:]] == ["[1]", "[2]", "[3]"]
    _, out, _ = run(capfd, "--table", "8")
    assert out.endswith("All figures agree within rounding.\n") and "Table 7" not in out
    _, out, _ = run(capfd, "--table", "5")
    lines = [line.split() for line in out.splitlines()]
    assert ["MoE-Multi", "multilingual/moe-multi", "101.712", "102.0", "-0.288", "8.677", "8.7",
            "-0.023"] in lines  # fmt: skip
    assert ["GNMT-Multi", "multilingual/gnmt-multi", "171.966", "212.0", "-40.034", "[1]", "0.208",
            "0.278", "-0.070", "[2]"] in lines  # fmt: skip
    assert [line[0] for line in lines[-2:]] == ["[1]", "[2]"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "9"], "--table must be 1 to 5, 7 or 8"),
        (["--table", "x"], "got 'x'"),
        (["--row", "moe256"], "--row: there is no row 'moe256'; did you mean 'MoE-256'?"),
        (["--table", "8", "--row", "zzz"], "rows: 4xLSTM-512, MoE-32, MoE-256-h"),
    ],
)
def test_errors(capfd, monkeypatch, arguments, message):
    monkeypatch.delenv("TFMOE_DEBUG", raising=False)
    status, out, err = run(capfd, *arguments)
    assert (status, out) == (2, "")
    assert message in err and "Traceback" not in err
