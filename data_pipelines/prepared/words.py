"""The text of a language model in the cache: words as numbers, and a survey.

Words are numbered from 1 in the order in which they first occur. Numbers do not depend on a
vocabulary: a table from numbers to ids applies one when text is read for training. `.new` of a
shard has the words that occur first in it, one a line; `counts.int64` how often each word occurs.
"""

import collections
import dataclasses
import functools
import itertools
import os
import pathlib
import zlib

import numpy as np

from tfmoe.data_pipelines.changes import stamps
from tfmoe.data_pipelines.prepared.cached import (
    NewFile,
    Progress,
    contents_of,
    damage,
    key_of,
)
from tfmoe.data_pipelines.prepared.shards import (
    SHARD_POSITIONS,
    Shards,
    ShardWriter,
    prepared_shards,
)
from tfmoe.data_pipelines.reading import is_gzip, line_blocks
from tfmoe.data_pipelines.text import Paths, Survey, find_files, without_words
from tfmoe.data_pipelines.vocabulary import END, Vocabulary

FORMAT = 2  # increase it when the same text gives other files
COUNTS = "counts.int64"
END_OF_LINE = b"\n"  # no word, so its number is free for `END`


@dataclasses.dataclass(frozen=True)
class PreparedText:
    """Text files as numbers of words. `prepare_text` makes it.

    Args:
        shards: the numbers, `Shards`.
    """

    shards: Shards

    @functools.cached_property
    def words(self) -> list[str]:
        """The words of the text, in the order of their numbers, from 1."""
        parts = [part.decode("utf-8").split("\n") for part in self.shards.new() if part]
        return list(itertools.chain.from_iterable(parts))

    @property
    def content(self) -> str:
        """Digest of the content of the files."""
        return self.shards.index["content"]

    @functools.cached_property
    def lengths(self) -> collections.Counter[int]:
        """`Counter` from words in a sentence to sentences."""
        return collections.Counter(dict(self.shards.index["lengths"]))

    @functools.cached_property
    def survey(self) -> Survey:
        """What `survey` returns for the files."""
        counts = self._counts().tolist()
        words = collections.Counter(dict(zip(self.words, counts, strict=True)))
        return Survey(self.shards.num_lines, sum(counts), words, self.lengths)

    def table(self, vocabulary: Vocabulary) -> np.ndarray:
        """Returns the ids of a vocabulary by number of the word, int32 `[1 + words]`."""
        return np.array([END, *vocabulary.encode(self.words)], np.int32)

    def _counts(self):
        path = self.shards.folder / COUNTS
        counts = np.fromfile(path, "<i8") if path.exists() else np.zeros(0)
        if len(counts) != len(self.words):
            raise damage(path, f"it has {len(counts):,} counts for {len(self.words):,} words")
        if zlib.crc32(counts) != self.shards.index["files"][COUNTS]:
            raise damage(path, "its checksum is wrong")
        return counts


def prepare_text(
    files: Paths, folder: str | os.PathLike, shard_positions: int = SHARD_POSITIONS
) -> PreparedText:
    """Reads text files once, checks them, and writes them as numbers of words into a folder.

    Files whose content is there already are not read; if their size or time of change is new, they
    are read once to compare their content. If it was killed, it goes on behind the last finished
    shard. One process writes at a time; others wait for it.

    Args:
        files: a path or glob or a list of them.
        folder: the folder of prepared text, made if missing.
        shard_positions: number of words and ends of sentences in a shard.

    Returns:
        A `PreparedText`.

    Raises:
        TextError: as `survey`; if a file of the folder is damaged, or the text changes meanwhile.
        OSError: if it cannot be written.
    """
    files = find_files(files)
    known = stamps(files)
    content = key_of([contents_of(files, folder), [*map(is_gzip, files)]])
    path = pathlib.Path(folder) / f"words-{key_of(['words', FORMAT, content])}"

    def write():
        _write(files, path, content, ShardWriter(path, known, shard_positions))

    return PreparedText(prepared_shards(path, write))


def _write(files, path, content, writer):
    """Writes the shards that are missing, and what follows of all of them."""
    numbers = _numbers_of(path, writer)
    first_file, first_line = writer.shards[-1]["text_end"] if writer.shards else (0, 0)
    progress = Progress("preparing the text", sum(map(os.path.getsize, files)), "bytes")
    progress.skip(sum(map(os.path.getsize, files[:first_file])))
    try:
        for number, file in enumerate(files[first_file:], first_file):
            skip = first_line if number == first_file else 0
            _write_file(writer, numbers, number, file, skip, progress)
        writer.finish_shard([len(files), 0], numbers.new_words())
    finally:
        writer.discard()
    _finish(writer, path, content, len(numbers.numbers) - 1)


class _Numbers:
    """The numbers of words, which grow as new words come."""

    def __init__(self, words):
        self.numbers = collections.defaultdict(itertools.count(1 + len(words)).__next__)
        self.numbers[END_OF_LINE] = END
        self.numbers.update(zip(words, itertools.count(1)))
        self._written = len(self.numbers)

    def new_words(self):
        """The words since the last call, as bytes, one a line."""
        words = itertools.islice(self.numbers, self._written, None)
        new = b"\n".join(words)
        self._written = len(self.numbers)
        return new


def _numbers_of(path, writer):
    words = []
    if writer.shards:
        for part in Shards(path, {"shards": writer.shards}).new():
            words += part.split(b"\n") if part else []
    return _Numbers(words)


def _write_file(writer, numbers, number, file, skip, progress):
    """Writes a file from line `skip` on. `number`: of the file."""
    line, has_words = 0, bool(skip)
    for lines in line_blocks(file):
        progress.add(sum(map(len, lines)) + len(lines))
        before, line = line, line + len(lines)
        if line <= skip:
            continue
        kept = itertools.islice(lines, max(0, skip - before), None)
        sentences = [words for text in kept if (words := text.split())]
        lengths = [*map(len, sentences)]
        for words in sentences:
            words.append(END_OF_LINE)
        ids = map(numbers.numbers.__getitem__, itertools.chain.from_iterable(sentences))
        writer.write(lengths, np.fromiter(ids, np.int32, sum(lengths) + len(lengths)))
        has_words = has_words or bool(sentences)
        if writer.is_full():
            writer.finish_shard([number, line], numbers.new_words())
    if not has_words:
        raise without_words(file)


def _finish(writer, path, content, num_words):
    """Counts words and lengths, and completes the folder."""
    shards = Shards(path, {"shards": writer.shards})
    counts = np.zeros(1 + num_words, np.int64)
    for ids in shards.ids():
        for begin in range(0, len(ids), 1 << 24):
            counts += np.bincount(ids[begin : begin + (1 << 24)], minlength=len(counts))
    lengths: collections.Counter[int] = collections.Counter()
    for begin in range(0, shards.num_lines, 1 << 20):
        values = np.unique(shards.lines(begin, begin + (1 << 20))[1], return_counts=True)
        lengths.update(dict(zip(*(part.tolist() for part in values), strict=True)))
    file = NewFile(path / COUNTS)
    try:
        file.write(counts[1:].astype("<i8"))
        file.finish()
    finally:
        file.discard()
    files = {COUNTS: file.checksum}
    writer.finish({"content": content, "lengths": sorted(lengths.items()), "files": files})
