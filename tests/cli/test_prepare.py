"""`tfmoe prepare`."""

import os
import pathlib

import pytest

from tfmoe.config import load_config
from tfmoe.tasks import find_splits

GRAMMARS = (
    "data={name: grammars, grammars: 4, symbols: 5, length: 3, train_sentences: 20, "
    "valid_sentences: 2, test_sentences: 3}"
)


def test_files(command, corpus):
    status, out, err = command("prepare", "tiny.yaml")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[1].split()[:5] == ["train", "30", "sentences", "90", "words"]
    assert lines[4] == "vocabulary of 8"
    (begin,) = (index for index, line in enumerate(lines) if line.startswith("prepared text: "))
    folders = [pathlib.Path(line.strip()) for line in lines[begin + 1 : -3]]
    assert [folder.name.split("-")[0] for folder in folders] == ["words"] * 3 + ["rows"]
    size = sum(file.stat().st_size for folder in folders for file in folder.iterdir())
    assert lines[begin] == f"prepared text: {size / 1e6:,.1f} MB in"
    assert lines[-3:] == ["train: train.txt", "valid: valid.txt", "test: test.txt"]
    assert sorted(path.name for path in corpus.iterdir()) == [
        "test.txt", "tiny.yaml", "train.txt", "valid.txt",
    ]  # fmt: skip


def test_text_is_generated_once(command, tmp_path):
    """A sentence has two marker words, three symbols and </S>."""
    prepare = ["prepare", "tiny.yaml", "--set", GRAMMARS]
    status, out, err = command(*prepare)
    assert (status, err) == (0, "")
    (folder,) = (tmp_path / "cache").glob("grammars-*")
    assert out.endswith(f"test: {folder}/test.txt\n")
    lines = out.splitlines()
    assert lines[1].split()[:5] == ["train", "20", "sentences", str(20 * 5), "words"]
    config = load_config("tiny.yaml", [GRAMMARS])
    assert find_splits(config).train == [f"{folder}/train.txt"]
    written = (folder / "train.txt").stat().st_mtime_ns
    assert command(*prepare)[0] == 0
    assert (folder / "train.txt").stat().st_mtime_ns == written


def test_a_second_start_reads_no_training_text(command, tmp_path):
    """The file has other content by then, but the size and time that it had."""
    path = tmp_path / "train.txt"
    path.write_text("a b c\n" * 12)
    prepare = ["prepare", "tiny.yaml", "--set", f"data.train={path}"]
    status, out, _ = command(*prepare)
    times = path.stat()
    path.write_text("x x x\n" * 12)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert command(*prepare) == (status, out, "")
    path.touch()
    assert "12 sentences 36 words" in " ".join(command(*prepare)[1].split())
    assert len(list((tmp_path / "cache" / "prepared").glob("words-*"))) == 4


def test_a_damaged_file_of_prepared_text(command, refused):
    out = command("prepare", "tiny.yaml")[1]
    folder = next(line.strip() for line in out.splitlines() if "/words-" in line)
    file = pathlib.Path(folder) / "00000.ids"
    content = file.read_bytes()
    file.unlink()  # not changed in place: the first command may have it mapped to memory
    file.write_bytes(content[:20] + b"\7" + content[21:])
    assert f"{file}: the prepared text is damaged: its checksum" in refused("prepare", "tiny.yaml")
    file.unlink()
    file.write_bytes(content[:20])
    assert f"remove the folder {folder} and start again" in refused("prepare", "tiny.yaml")
    file.write_bytes(content)
    folder = next(line.strip() for line in out.splitlines() if "/rows-" in line)
    file = pathlib.Path(folder) / "0.int64"
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[8:] + content[:8])
    assert f"{file}: the prepared text is damaged: its checksum" in refused("prepare", "tiny.yaml")


def test_no_valid_and_test_text(command):
    status, out, _ = command(
        "prepare", "tiny.yaml", "--set", "data.valid=[]", "--set", "data.test="
    )
    assert status == 2  # data.test= is null, which is not a list
    flags = ["--set", "data.valid=[]", "--set", "data.test=[]"]
    status, out, _ = command("prepare", "tiny.yaml", *flags)
    assert status == 0
    assert out.endswith("valid: none\ntest: none\n")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.train=nowhere.txt", "nowhere.txt: no such file"),
        ("data.vocabulary.file=train.txt", "train.txt:1: "),
        ("data={name: lm1b, root: nowhere}", "nowhere"),
        ("data.batch_token=2", "batch_tokens"),
    ],
)
def test_errors(refused, setting, message):
    assert message in refused("prepare", "tiny.yaml", "--set", setting)


def test_the_published_test_text_is_recognised_or_rejected(command, tmp_path):
    """A test text of 6,075 sentences is the published one, and must have 153,583 words."""
    training = tmp_path / "lm1b/training-monolingual.tokenized.shuffled"
    held_out = tmp_path / "lm1b/heldout-monolingual.tokenized.shuffled"
    training.mkdir(parents=True)
    held_out.mkdir()
    (training / "news.en-00001-of-00100").write_text("a b c\n")
    (held_out / "news.en.heldout-00001-of-00050").write_text("a b\n")
    words = [25] * 6074 + [153_583 - 25 * 6074]
    test = held_out / "news.en.heldout-00000-of-00050"
    test.write_text("".join("a " * count + "\n" for count in words))
    data = f"data={{name: lm1b, root: {tmp_path}/lm1b}}"
    prepare = ["prepare", "tiny.yaml", "--set", data]
    status, out, err = command(*prepare)
    assert (status, "the published one" in out) == (0, True), err
    test.write_text("a\n" * 6075)
    status, _, err = command(*prepare)
    assert status == 2 and "153,583 words in 6,075 sentences" in err
