"""Commands are killed at random times and at file operations, and run again. The result must equal
that of an uninterrupted command, without leftover files, and nothing may hang.
"""

import csv
import json
import random

import pytest
import tensorflow as tf
from forked_commands import run

KILLS_BY_TIME = 20  # spread over the duration of a command
KILLS_BY_OPERATION = 10
TRANSLATION = """\
model:
  name: translation
  d_model: 8
  dropout: 0.1
  encoder: [{name: moe, num_experts: 4, hidden_units: 8, gate: {name: noisy_top_k, k: 2}}]
  decoder: [{name: attention_lstm, units: 8}]
  decoding: {beam_size: 2, batch_sentences: 2}
data:
  name: parallel
  train: train
  valid: valid
  test: test
  source_language: en
  target_language: de
  vocabulary: {size: 40}
  batch_words: 100
  max_length: 20
training: {epochs: 3, checkpoint_every_steps: 2}
"""
PAIRS = {
    "train": [("one two", "eins zwei"), ("three", "drei"), ("four one two", "vier eins zwei")] * 9,
    "valid": [("one three", "eins drei"), ("two", "zwei")],
    "test": [("four", "vier"), ("one", "eins"), ("two three", "zwei drei")],
}
TIMES = ("seconds", "seconds_since_start", "words_per_second")


@pytest.fixture(scope="module", params=["language_model", "translation"])
def text(request, corpus, tmp_path_factory):
    """A folder with config.yaml and its text."""
    folder = tmp_path_factory.mktemp(request.param) / "text"
    folder.mkdir()
    if request.param == "language_model":
        for name in ("train.txt", "valid.txt", "test.txt"):
            (folder / name).write_text((corpus / name).read_text())
        (folder / "config.yaml").write_text((corpus / "tiny.yaml").read_text())
        return folder
    for part, pairs in PAIRS.items():
        for language, lines in zip(("en", "de"), zip(*pairs, strict=True), strict=True):
            (folder / f"{part}.{language}").write_text("".join(f"{line}\n" for line in lines))
    (folder / "config.yaml").write_text(TRANSLATION)
    return folder


@pytest.fixture(scope="module")
def trained(text):
    """The folder of an uninterrupted run."""
    path = text.parent / "trained"
    trial = Trial(text, text.parent, "trained")
    ended = trial.run(["train", "config.yaml", "--run-dir", path])
    assert ended.status == 0, ended.err
    return path


class Ended:
    """A process that has ended, and its output."""

    def __init__(self, status, seconds, output):
        self.status, self.seconds = status, seconds
        self.out, self.err = ((output / name).read_text() for name in ("out", "err"))
        operations = output / "operations"
        self.operations = int(operations.read_text()) if operations.exists() else None


class Trial:
    """A folder in which commands run.

    Args:
        text: the folder of config and text.
        folder: the parent folder of the trial's output.
        name: of the trial.
    """

    def __init__(self, text, folder, name):
        self.text, self.folder = text, folder
        self.output = folder / f"{name}-output"
        self.runs = 0

    def run(self, arguments, **kill):
        """Runs a command with `forked_commands.run`; returns an `Ended`."""
        self.runs += 1
        output = self.output / str(self.runs)
        output.mkdir(parents=True)
        return Ended(*run(arguments, self.text, output, self.folder, **kill), output)


def campaign(text, folder, command, again, facts):
    """Kills a command at random, and runs it again.

    Args:
        text: the folder of config and text.
        folder: the folder of all trials.
        command: function from the path of a trial's result to the arguments of the command.
        again: the same for the command that is run after the kill.
        facts: function from the path of a result and the last process to the facts that must equal
            those of an uninterrupted command.

    Returns:
        List of failures: how the command was killed, and the difference.
    """
    whole = Trial(text, folder, "whole")
    ended = [whole.run(command(folder / f"whole-{index}")) for index in range(3)]
    assert [process.status for process in ended] == [0, 0, 0], ended[0].err
    expected, repeated = (facts(folder / f"whole-{index}", ended[index]) for index in (0, 1))
    assert expected == repeated
    seconds, ended = min(process.seconds for process in ended), ended[-1]
    generator = random.Random(command(folder)[0])
    kills = [{"seconds": generator.uniform(0, seconds)} for _ in range(KILLS_BY_TIME)]
    operations = range(1, ended.operations + 1)
    num_kills = min(KILLS_BY_OPERATION, len(operations))
    kills += [{"dies_at": at} for at in generator.sample(operations, num_kills)]
    failures, killed = [], 0
    for index, kill in enumerate(kills):
        trial, path = Trial(text, folder, index), folder / str(index)
        first = trial.run(command(path), **kill)
        killed += first.status != 0
        last = trial.run(again(path))
        if first.status not in (0, -9) or "Traceback" in first.err + last.err or last.status:
            failures.append((kill, first.status, first.err, last.status, last.err))
        elif facts(path, last) != expected:
            failures.append((kill, facts(path, last), expected))
    name = f"{text.parent.name}, {command(folder)[0]}"
    print(f"\n{name}: {len(kills)} tried, {killed} killed before the end, {len(failures)} failed")
    return failures


def files_of(path):
    """The names of all files and folders of a result, without TensorBoard's, which contain times;
    also of temporary ones in its folder.
    """
    names = (file.relative_to(path).as_posix() for file in path.rglob("*"))
    return sorted(n for n in names if not n.startswith("logs") or "tmp" in n or "/." in n)


def facts_of_run(path, _process):
    """Weights, history and result of a run, without durations."""
    facts = {"files": files_of(path)}
    for folder in (path / "checkpoints", path / "checkpoints" / "best"):
        reader = tf.train.load_checkpoint(str(folder))
        for name in reader.get_variable_to_shape_map():
            if name != "seconds":
                facts[folder.name, name] = reader.get_tensor(name).tobytes()
    with open(path / "history.csv", newline="") as file:
        facts["history"] = [
            {name: value for name, value in row.items() if name not in TIMES}
            for row in csv.DictReader(file)
        ]
    result = json.loads((path / "result.json").read_text())
    return facts | {name: value for name, value in result.items() if name not in TIMES}


@pytest.mark.slow
def test_training(text, tmp_path):
    def command(path):
        return ["train", "config.yaml", "--run-dir", path]

    assert not campaign(
        text, tmp_path, command, lambda path: [*command(path), "--resume"], facts_of_run
    )


@pytest.mark.slow
def test_exporting(text, trained, tmp_path):
    """The killed command may have finished its version; then the second one writes another."""

    def command(path):
        return ["export", trained, path]

    def facts(path, _process):
        versions = sorted(path.iterdir())
        assert [version.name for version in versions] in (["1"], ["1", "2"])
        manifests = [json.loads((version / "manifest.json").read_text()) for version in versions]
        for manifest, version in zip(manifests, versions, strict=True):
            names = {name for name in files_of(version) if (version / name).is_file()}
            assert names == {*manifest["files"], "manifest.json"}
            for name in ("saved_model.pb", "fingerprint.pb"):
                del manifest["files"][name]
        assert manifests[0] == manifests[-1]
        return manifests[0]

    assert not campaign(text, tmp_path, command, command, facts)


@pytest.mark.slow
def test_inspecting(text, trained, tmp_path):
    def command(path):
        return ["inspect", trained, "--json", "--html", path / "page.html", "--csv", path / "a.csv"]

    def facts(path, process):
        page = (path / "page.html").read_text(encoding="utf-8")
        return (
            files_of(path),
            page.endswith("</html>\n"),
            (path / "a.csv").read_bytes(),
            json.loads(process.out),
        )

    assert not campaign(text, tmp_path, command, command, facts)
