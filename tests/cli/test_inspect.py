"""`tfmoe inspect`."""

import csv
import html.parser
import json
import re
import shutil

import pytest

from tfmoe.training.run_directory import RunDirectory

VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Parses a page, and checks that all tags are closed. Stores texts, tags and attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture
def inspected(command, finished):
    """A function that inspects the finished run as JSON."""

    def inspected(*arguments):
        status, out, err = command("inspect", finished.path, "--json", *arguments)
        assert status == 0, err
        assert out.count("\n") == 1
        return json.loads(out)

    return inspected


def test_json(inspected):
    """The test text has 8 words in 3 sentences that begin with <S>: 11 tokens with 2 experts."""
    report = inspected()
    assert (report["sentences"], report["labels"]) == (3, None)
    layer = report["layers"]["moe_0"]
    assert (layer["experts"], layer["tokens"], layer["experts_per_token"]) == (4, 11, 2)
    assert sum(layer["load"]) == 22
    assert sum(layer["importance"]) == pytest.approx(11, rel=1e-5)
    information = layer["information_on_tokens"]
    assert 0 <= information["bits"] <= information["entropy_of_experts"] <= 2
    assert information["excess"] == information["bits"] - information["baseline_mean"]
    assert layer["information_on_labels"] is None


def test_text_page_and_csv(command, finished, tmp_path):
    page, table = tmp_path / "page.html", tmp_path / "table.csv"
    arguments = ["--expert", 2, "--html", page, "--csv", table]
    status, out, err = command("inspect", finished.path, *arguments)
    assert status == 0, err
    assert out.startswith("moe_0: 4 experts, 2.00 for a token, on 11 tokens of 3 sentences (best")
    assert "expert and token  " in out and "Where moe_0 weighs expert 2 highest:" in out
    assert out.endswith(f"written: {table}\n\nwritten: {page}\n")
    with open(table, newline="") as file:
        head, *rows = csv.reader(file)
    assert ",".join(head) == "sentence,position,token,layer,expert,gate,rank"
    assert len(rows) == 22
    # Line 3 is blank: the third sentence is line 4.
    assert {row[0] for row in rows} == {"1", "2", "4"}
    assert [row[2] for row in rows if row[0] == "2" and row[6] == "1"] == ["<S>", "<UNK>", "a"]


def test_labels(inspected, tmp_path):
    (tmp_path / "one.txt").write_text("a b\n\nc d\n")
    (tmp_path / "two.txt").write_text("e a\n")
    (tmp_path / "one.label").write_text("x\n\ny\n")
    (tmp_path / "two.label").write_text("<b>\n")
    # Not in alphabetical order: labels and texts must be in the same order.
    text = ["--data", tmp_path / "two.txt", "--data", tmp_path / "one.txt"]
    by_file = inspected(*text)
    assert by_file["labels"] == "file"
    names = by_file["layers"]["moe_0"]["labels"]["names"]
    assert names == ["one.txt", "two.txt"]
    labels = ["--labels", tmp_path / "two.label", "--labels", tmp_path / "one.label"]
    report = inspected(*text, *labels)
    assert report["labels"] == "label"
    layer = report["layers"]["moe_0"]
    assert layer["labels"]["names"] == ["<b>", "x", "y"]
    assert layer["labels"]["share_of_text"] == pytest.approx([1 / 3] * 3)
    assert layer["information_on_labels"]["entropy_of_labels"] == pytest.approx(1.585, abs=1e-3)


def test_the_page_is_complete_and_self_contained(command, finished, tmp_path):
    run = shutil.copytree(finished.path, tmp_path / "<run> & more")
    (tmp_path / "a&b.txt").write_text("a b c\nb c d\n" * 9)
    label = "<script>alert(1)</script> $\\frac{$ \x1b[31m"
    (tmp_path / "labels").write_text(f"{label}\n\"x'\n" * 9)
    status, out, err = command(
        "inspect", run, "--data", tmp_path / "a&b.txt", "--labels", tmp_path / "labels",
        "--html", tmp_path / "page.html",
    )  # fmt: skip
    assert status == 0, err
    assert "\x1b" not in out + err
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = Page(text)
    shown = "".join(page.texts)
    assert "What the experts of <run> & more do" in shown and "On a&b.txt" in shown
    assert "moe_0" in shown and "<S>" in shown and "words trained on" in shown
    tags = {tag for tag, _ in page.tags}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    for tag, attributes in page.tags:
        assert not {"href", "srcset", "action", "onload", "background"} & set(attributes)
        if tag == "img":
            assert attributes["src"].startswith("data:image/svg+xml;base64,")
            assert attributes["alt"]
    # Curves of perplexity and balance, load, pairs and labels.
    assert [tag for tag, _ in page.tags].count("img") == 5
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style
    assert {"charset": "utf-8"} in [attributes for tag, attributes in page.tags if tag == "meta"]
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".tmp"]


def test_a_run_without_history(command, finished, tmp_path):
    run = RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))
    run.history.unlink()
    run.result.unlink()
    status, _, err = command("inspect", run.path, "--html", tmp_path / "page.html")
    assert status == 0, err
    page = Page((tmp_path / "page.html").read_text())
    assert "The run has no history of its epochs." in page.texts


def test_best_and_last_weights(command, finished, tmp_path):
    """The weights are compared if they are of different steps."""
    run = RunDirectory(shutil.copytree(finished.path, tmp_path / "run"))
    best, last = (
        sorted(folder.glob(f"{name}-*.index"))[-1]
        for name, folder in (("best", run.checkpoints / "best"), ("last", run.checkpoints))
    )
    same = best.stem.split("-")[1] == last.stem.split("-")[1]
    status, out, _ = command("inspect", run.path, "--json")
    report = json.loads(out)
    assert status == 0
    assert report["compared_with"] == (None if same else "last")
    for part in (".index", ".data-00000-of-00001"):
        best.with_suffix(part).rename(best.with_name(f"best-1{part}"))
    checkpoint = run.checkpoints / "best" / "checkpoint"
    checkpoint.write_text(checkpoint.read_text().replace(best.stem, "best-1"))
    status, out, err = command("inspect", run.path, "--json")
    assert status == 0, err
    report = json.loads(out)
    assert report["compared_with"] == "last"
    consistency = report["layers"]["moe_0"]["consistency"]
    assert consistency["tokens"] == 11
    assert 0 <= consistency["same_experts"] <= consistency["jaccard"] <= 1
    status, out, _ = command("inspect", run.path)
    assert status == 0 and "best and last" in out


def test_summaries_of_training(finished):
    assert list((RunDirectory(finished.path).logs / "experts").glob("events.*"))


def test_errors(refused, finished, corpus, tmp_path):
    run = finished.path
    assert "is not the folder of a run: it has no config.yaml" in refused("inspect", tmp_path)
    assert "is a folder: give the name of a file" in refused("inspect", run, "--html", tmp_path)
    same = ["--html", tmp_path / "x", "--csv", tmp_path / "x"]
    assert "--csv and --html must be different files" in refused("inspect", run, *same)
    assert "--sentences must be 1 or more, got 0" in refused("inspect", run, "--sentences", 0)
    for shuffles in (1, 100_000_000):
        err = refused("inspect", run, "--shuffles", shuffles)
        assert f"--shuffles must be from 2 to 10,000, got {shuffles:,}" in err
    assert "--expert must be from 0 to 3, got 4" in refused("inspect", run, "--expert", 4)
    assert "nowhere.txt" in refused("inspect", run, "--data", "nowhere.txt")
    assert "nowhere.txt" in refused("inspect", run, "--labels", "nowhere.txt")
    assert "test.txt has 4: it must have one label for each line" in refused(
        "inspect", run, "--labels", corpus / "valid.txt"
    )
    assert "--direction is for translation" in refused("inspect", run, "--direction", "en-fr")


def test_nothing_to_inspect(command, refused, corpus, tmp_path):
    """A model without a mixture; a run without test text."""
    setting = "model.blocks=[{name: feed_forward, hidden_units: 4}]"
    run = tmp_path / "dense"
    arguments = ["--set", setting, "--set", "training.epochs=1", "--set", "data.test=[]"]
    status, _, err = command("train", "tiny.yaml", "--run-dir", run, *arguments)
    assert status == 0, err
    assert "the model has no mixture of experts" in refused("inspect", run)
