import pytest

from tfmoe.config import find_splits, load_config

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
    assert lines[-3:] == ["train: train.txt", "valid: valid.txt", "test: test.txt"]
    assert sorted(path.name for path in corpus.iterdir()) == [
        "test.txt", "tiny.yaml", "train.txt", "valid.txt",
    ]  # fmt: skip


def test_generated_text_is_written_once(command, tmp_path):
    """A sentence has two marker words, three symbols and its end."""
    prepare = ["prepare", "tiny.yaml", "--set", GRAMMARS]
    status, out, err = command(*prepare)
    assert (status, err) == (0, "")
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.startswith("grammars-")
    assert out.endswith(f"test: {folder}/test.txt\n")
    lines = out.splitlines()
    assert lines[1].split()[:5] == ["train", "20", "sentences", str(20 * 5), "words"]
    config = load_config("tiny.yaml", [GRAMMARS])
    assert find_splits(config).train == [f"{folder}/train.txt"]
    written = (folder / "train.txt").stat().st_mtime_ns
    assert command(*prepare)[0] == 0
    assert (folder / "train.txt").stat().st_mtime_ns == written


def test_no_valid_and_test_text(command):
    status, out, _ = command(
        "prepare", "tiny.yaml", "--set", "data.valid=[]", "--set", "data.test="
    )
    assert status == 2  # data.test= is null, which is no list
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
def test_mistakes(refused, setting, message):
    assert message in refused("prepare", "tiny.yaml", "--set", setting)
