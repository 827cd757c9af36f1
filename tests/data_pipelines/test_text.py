import collections
import gzip

import pytest

from tfmoe.data_pipelines import TextError, find_files, survey
from tfmoe.data_pipelines.graph_tokenization import split_words
from tfmoe.data_pipelines.reading import line_dataset
from tfmoe.data_pipelines.text import sentences


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with (gzip.open if path.suffix == ".gz" else open)(path, "wb") as file:
        file.write(content)
    return str(path)


def test_find_files_sorts_and_expands(tmp_path):
    b, a, c = (write(tmp_path / name, b"x\n") for name in ("b.txt", "a.txt", "sub/c.txt.gz"))
    assert find_files(tmp_path / "a.txt") == [a]
    assert find_files(str(tmp_path / "*.txt")) == [a, b]
    assert find_files([b, str(tmp_path / "*.txt"), c]) == [a, b, c]
    assert find_files(str(tmp_path / "**" / "*.gz")) == [c]


@pytest.mark.parametrize(
    "pattern, message",
    [
        ("absent.txt", r"absent.txt: no such file \(looked from "),
        ("*.text", r"\*.text: no file matches this glob"),
        ("", r": is a directory; name its files, for example .*\*.txt"),
    ],
)
def test_find_files_says_what_is_missing(tmp_path, pattern, message):
    with pytest.raises(TextError, match=message):
        find_files(str(tmp_path / pattern))


def test_find_files_needs_a_name():
    with pytest.raises(TextError, match="no text file given"):
        find_files([])


# Every rule of the module docstring; the words as bytes.
UNUSUAL = [
    (b"\xef\xbb\xbfbyte order mark\r\n", [b"byte", b"order", b"mark"]),
    (b"tab\tand\x0bvertical\x0cfeed  two \r\n", [b"tab", b"and", b"vertical", b"feed", b"two"]),
    (b"\n", []),
    (b" \t\r\n", []),
    (b"\xef\xbb\xbf\n", []),
    ("no\u00a0break ideo\u3000graphic line\u2028end next\u0085line\n".encode(), None),
    (b"file\x1cseparator nul\x00byte\n", [b"file\x1cseparator", b"nul\x00byte"]),
    (b"carriage\rreturn inside\n", [b"carriagereturn", b"inside"]),
    ("木曜日 naïve\n".encode(), ["木曜日".encode(), "naïve".encode()]),
    (b"no end of line", [b"no", b"end", b"of", b"line"]),
]


@pytest.mark.parametrize("name", ["unusual.txt", "unusual.txt.gz"])
def test_python_and_tensorflow_agree_on_words(tmp_path, name):
    file = write(tmp_path / name, b"".join(line for line, _ in UNUSUAL))
    expected = [words or line.rstrip(b"\n").split(b" ") for line, words in UNUSUAL if words != []]
    assert [words for _, words in sentences(file)] == expected
    lines = list(line_dataset(file).as_numpy_iterator())
    assert [words for words in split_words(lines).to_list() if words] == expected


def test_line_numbers_count_blank_lines(tmp_path):
    file = write(tmp_path / "a.txt", b"\na\n\n\nb\n")
    assert list(sentences(file)) == [(2, [b"a"]), (5, [b"b"])]


def test_survey_counts(tmp_path):
    write(tmp_path / "a.txt", "the cat\n\nthe naïve cat sat\n".encode())
    write(tmp_path / "b.txt.gz", b"a cat\n")
    found = survey(str(tmp_path / "*"))
    assert (found.sentences, found.tokens) == (3, 8)
    assert found.words == {"the": 2, "cat": 3, "naïve": 1, "sat": 1, "a": 1}
    assert found.lengths == collections.Counter({2: 2, 4: 1})


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", b"", r"a.txt: the file is empty; it must hold one sentence a line"),
        ("a.txt", b"\n \r\n", r"a.txt: the file has only blank lines"),
        ("a.txt", b"fine\nna\xefve\n", r"a.txt:2:3: byte 0xef is not valid UTF-8 .* iconv"),
        ("a.txt.gz", b"", r"a.txt.gz: the file has only blank lines"),
        ("a.txt.gz", b"fine\n\xff\n", r"a.txt.gz:2:1: byte 0xff is not valid UTF-8"),
    ],
)
def test_survey_names_file_and_line(tmp_path, name, content, message):
    with pytest.raises(TextError, match=message):
        survey(write(tmp_path / name, content))


def test_one_bad_file_among_good_ones(tmp_path):
    write(tmp_path / "a.txt", b"good\n")
    write(tmp_path / "b.txt", b"")
    with pytest.raises(TextError, match=r"b.txt: the file is empty"):
        survey(str(tmp_path / "*.txt"))


def test_damaged_gzip_file(tmp_path):
    file = write(tmp_path / "a.txt.gz", b"some words\n" * 1000)
    whole = (tmp_path / "a.txt.gz").read_bytes()
    (tmp_path / "a.txt.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TextError, match=r"a.txt.gz: damaged gzip file: it was cut off"):
        survey(file)
    (tmp_path / "a.txt.gz").write_bytes(b"not packed\n")
    with pytest.raises(
        TextError,
        match=r"a.txt.gz: is not the gzip file that its name says: incorrect header",
    ):
        survey(file)
