import math

import pytest

from tfmoe.training.run_directory import RunDirectory


def test_names_of_files(tmp_path):
    run = RunDirectory(tmp_path)
    paths = [run.config, run.facts, run.vocabulary, run.checkpoints, run.history, run.logs]
    assert [path.relative_to(tmp_path).as_posix() for path in [*paths, run.result]] == [
        "config.yaml", "run.json", "vocabulary.txt", "checkpoints", "history.csv", "logs",
        "result.json",
    ]  # fmt: skip


def test_begun_and_check(tmp_path):
    run = RunDirectory(tmp_path / "run")
    assert not run.begun()
    with pytest.raises(FileNotFoundError, match="run is not the folder of a run: it has no config"):
        run.check()
    run.path.mkdir()
    run.config.touch()
    assert run.begun()
    with pytest.raises(FileNotFoundError, match=r"it has no run\.json"):
        run.check()
    run.facts.touch()
    with pytest.raises(FileNotFoundError, match=r"it has no vocabulary\.txt"):
        run.check()
    run.vocabulary.touch()
    run.check()


def test_clear_removes_only_the_run(tmp_path):
    run = RunDirectory(tmp_path)
    run.clear()
    for file in (run.config, run.facts, run.vocabulary, run.history, run.result):
        file.touch()
    for folder in (run.checkpoints / "best", run.logs / "train"):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    (tmp_path / "notes.txt").touch()
    run.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_json(tmp_path):
    run = RunDirectory(tmp_path / "new" / "run")
    run.write_json(run.result, {"wörter": [1, 2.5]})
    assert run.result.read_text(encoding="utf-8") == '{\n "wörter": [\n  1,\n  2.5\n ]\n}\n'
    assert run.read_json(run.result) == {"wörter": [1, 2.5]}
    run.result.write_text('{\n"a" 1}')
    with pytest.raises(ValueError, match=r"result\.json:2: not JSON: Expecting ':' delimiter"):
        run.read_json(run.result)
    run.result.write_bytes(b'"\xff"')
    with pytest.raises(ValueError, match=r"result\.json: not UTF-8"):
        run.read_json(run.result)


def test_facts(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json(run.facts, {"vocabulary": "0a", "text": {}})
    assert run.read_facts() == {"vocabulary": "0a", "text": {}}
    for broken in ([], {"text": {}}, {"vocabulary": "0a"}, 3):
        run.write_json(run.facts, broken)
        with pytest.raises(ValueError, match=r"run\.json is incomplete: missing key"):
            run.read_facts()


def test_history(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.read_history() == []
    rows = [{"epoch": 1, "loss": 2.5}, {"epoch": 2.0, "loss": 1 / 3, "val_loss": math.inf}]
    run.write_history(rows)
    assert run.history.read_text() == ("epoch,loss,val_loss\n1,2.5,\n2,0.3333333333333333,inf\n")
    assert run.read_history() == rows
    run.write_history(run.read_history())
    assert run.read_history() == rows


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("epoch,loss\n", 1),
        ("loss,epoch\n1,2\n", 1),
        ("epoch,loss\n1,2\n2\n", 3),
        ("epoch,loss\n1,2,3\n", 2),
        ("epoch,loss\n1,two\n", 2),
    ],
)
def test_malformed_history(tmp_path, text, line):
    run = RunDirectory(tmp_path)
    run.history.write_text(text)
    with pytest.raises(ValueError, match=rf"history\.csv:{line}: not a "):
        run.read_history()


def test_failed_write_keeps_the_old_file(tmp_path):
    run = RunDirectory(tmp_path)
    run.write_json(run.result, 1)
    with pytest.raises(TypeError):
        run.write_json(run.result, [2, object()])
    assert run.read_json(run.result) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
