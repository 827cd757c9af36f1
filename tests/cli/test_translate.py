"""`tfmoe translate`, on a briefly trained run. The length penalty keeps its translations from being
empty.
"""

import gzip
import io

import pytest

from tfmoe.tasks.translate import plain_sentence

CONFIG = """\
model:
  name: translation
  d_model: 8
  encoder: [{name: lstm, units: 8}]
  decoder:
    - {name: attention_lstm, units: 8}
    - {name: moe, num_experts: 4, hidden_units: 8, gate: {name: batchwise, k: 2}}
  decoding: {batch_sentences: 2, length_penalty: 5}
data:
  name: parallel
  source_language: en
  target_language: fr
  train: pairs
  valid: pairs
  vocabulary: {size: 40}
  batch_words: 64
  max_length: 20
training: {epochs: 1}
"""


@pytest.fixture(scope="module")
def translator(train, tmp_path_factory):
    """The folder of a run, `run`."""
    folder = tmp_path_factory.mktemp("translator")
    (folder / "pairs.en").write_text("one two\ntwo three one\nthree\n" * 8)
    (folder / "pairs.fr").write_text("un deux\ndeux trois un\ntrois\n" * 8)
    (folder / "translate.yaml").write_text(CONFIG)
    return train(folder / "translate.yaml", folder / "run").path


@pytest.fixture
def translate(command, monkeypatch):
    """A function that runs the command with a text as standard input."""

    def translate(run, *arguments, text=""):
        stdin = io.TextIOWrapper(io.BytesIO(text.encode()))
        monkeypatch.setattr("sys.stdin", stdin)
        return command("translate", run, *arguments)

    return translate


def test_one_line_per_line(translate, translator, tmp_path):
    text = "one two\n\n  \nthree\ttwo\none two"  # without a final line end
    status, out, _ = translate(translator, text=text)
    assert status == 0
    lines = out.split("\n")
    assert len(lines) == 6 and lines[5] == ""
    assert lines[0] == lines[4] != ""
    assert lines[1] == lines[2] == ""
    (tmp_path / "input.txt").write_text(text)
    assert translate(translator, "--input", tmp_path / "input.txt")[1] == out
    (tmp_path / "input.txt.gz").write_bytes(gzip.compress(text.encode()))
    assert translate(translator, "--input", tmp_path / "input.txt.gz")[1] == out
    assert translate(translator, text="three two\n")[1] == lines[3] + "\n"


def test_several_translations(translate, translator):
    status, out, _ = translate(translator, "--nbest", "3", "--beam", "5", text="one\n\ntwo\n")
    assert status == 0
    rows = [line.split("\t") for line in out.splitlines()]
    assert {number for number, _, _ in rows} == {"1", "2", "3"}
    for number in "13":
        scores = [float(score) for n, score, _ in rows if n == number]
        assert 1 <= len(scores) <= 3 and scores == sorted(scores, reverse=True)
    assert [row for row in rows if row[0] == "2"] == [["2", "0.0000", ""]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--to", "fr"], "--to fr: "),
        (["--nbest", "0"], "--nbest must be from 1 to 1,000, got 0"),
        (["--nbest", "3", "--beam", "2"], "--beam must be at least --nbest 3, got 2"),
        (["--input", "nowhere.txt"], "--input nowhere.txt: no such file"),
    ],
)
def test_errors(refused, translator, arguments, message):
    assert message in refused("translate", translator, *arguments)


def test_a_language_model_does_not_translate(refused, finished):
    assert "is a run of a language_model model" in refused("translate", finished.path)


def test_help(command):
    _, out, _ = command("translate", "--help")
    assert "\\b" not in out and "\n    tfmoe translate runs/translation --input" in out


def test_lines_are_read_as_in_training():
    assert plain_sentence(b"\xef\xbb\xbf a\tb  c\r\n") == b"a b c"
    assert plain_sentence(b"\r\xef\xbb\xbfa\n") == b"a"
    assert plain_sentence(b" \r\n") == b""


def test_a_closed_pipe(start, translator):
    """`tfmoe translate RUN < long | head -1` ends without an error message."""
    source = translator.parent / "long.txt"
    source.write_text("one two three\n" * 2000)
    process = start(translator.parent, "translate", "run", "--input", str(source))
    assert process.stdout.readline()
    process.stdout.close()
    with process.stderr as stream:
        err = stream.read()
    assert "rror" not in err.replace("absl::InitializeLog", ""), err
    assert process.wait(timeout=120) == 141
