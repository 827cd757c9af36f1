"""Token ids of lines in shards: written once, block by block, and read at any place.

A folder has the shards 0, 1, …:

- `00000.ids`: int32, little-endian: `END` (0), then the ids of each line with an `END` behind them;
- `00000.ends`: int32: the index in `.ids` of the `END` of each line;
- `00000.new`: what else the lines brought, as text: see `words`; empty otherwise;
- `00000.json`: written last: sizes and checksums of these, and where in the text the shard ends.

`index.json` makes the folder complete. If the writer is killed before, the shards with a `.json`
are kept, and the next one goes on behind them.

A position is an index in the ids of all shards, one behind the other.
"""

import bisect
import itertools

import numpy as np

from tfmoe.data_pipelines.atomic_write import remove_leftovers
from tfmoe.data_pipelines.changes import check_unchanged
from tfmoe.data_pipelines.prepared.cached import (
    NewFile,
    check_checksum,
    damage,
    one_writer,
    read_description,
    write_description,
)
from tfmoe.data_pipelines.vocabulary import END

ID = np.dtype("<i4")
SHARD_POSITIONS = 1 << 26  # 256 MB of ids
INDEX = "index.json"
PARTS = "ids", "ends", "new"


class ShardWriter:
    """Writes the shards of a folder, behind those that are there.

    Args:
        folder: a `pathlib.Path` of an existing folder, of this writer alone.
        known: `stamps` of the files of the text, from before their content was known.
        shard_positions: about how many ids a shard has.

    Attributes:
        shards: list of the descriptions of finished shards; the last one's `"text_end"` says where
            the text goes on.
    """

    def __init__(self, folder, known, shard_positions=SHARD_POSITIONS):
        remove_leftovers(folder)
        self._known = known
        self.folder, self.shard_positions = folder, shard_positions
        self.shards, self._files = [], None
        while description := read_description(self._path("json"), damaged=dict):
            if _problem(folder, description):
                break
            self.shards.append(description)

    def write(self, lines, ids):
        """Appends lines.

        Args:
            lines: int array `[N]`, the number of ids of each line, without `END`.
            ids: int array: the ids of all lines, each with `END` behind it.
        """
        if not len(lines):
            return
        if self._files is None:
            self._files = {part: NewFile(self._path(part)) for part in PARTS}
            self._files["ids"].write(np.array([END], ID))
        begin = self._files["ids"].size // ID.itemsize
        self._files["ends"].write((begin - 1 + np.cumsum(np.asarray(lines) + 1)).astype(ID))
        self._files["ids"].write(np.asarray(ids, ID))

    def is_full(self):
        """Whether the shard that is written has its size."""
        return bool(self._files) and self._files["ids"].size >= self.shard_positions * ID.itemsize

    def finish_shard(self, text_end, new=b""):
        """Completes a shard.

        Args:
            text_end: JSON value: where the text goes on.
            new: bytes for `.new`.

        Raises:
            TextError: if a file of the text has changed.
        """
        if self._files is None:
            return
        check_unchanged(self._known)
        self._files["new"].write(np.frombuffer(new, np.uint8))
        for file in self._files.values():
            file.finish()
        description = {
            "number": len(self.shards),
            "text_end": text_end,
            "files": {part: [file.size, file.checksum] for part, file in self._files.items()},
        }
        write_description(self._path("json"), description)
        self.shards.append(description)
        self._files = None

    def finish(self, more):
        """Completes the folder.

        Args:
            more: dictionary of what else the index says. `"files"` has the CRC-32 of each further
                file of the folder, by its name.

        Raises:
            TextError: if a file of the text has changed.
        """
        check_unchanged(self._known)
        write_description(self.folder / INDEX, {**more, "shards": self.shards})

    def discard(self):
        """Removes the files of a shard that is not complete."""
        for file in (self._files or {}).values():
            file.discard()

    def _path(self, ending):
        return _path(self.folder, len(self.shards), ending)


class Shards:
    """The ids of a folder that is complete.

    Args:
        folder: a `pathlib.Path`.
        index: the content of its `index.json`.

    Attributes:
        num_lines: number of lines.

    Raises:
        TextError: if a file is missing or has another size than it was written with.
    """

    def __init__(self, folder, index):
        self.folder, self.index = folder, index
        for description in index["shards"]:
            if problem := _problem(folder, description):
                raise damage(*problem)
        self._ids = [self._mapped(shard, "ids") for shard in index["shards"]]
        self._ends = [self._mapped(shard, "ends") for shard in index["shards"]]
        self._starts = [0, *itertools.accumulate(map(len, self._ids))]
        self._first_lines = [0, *itertools.accumulate(map(len, self._ends))]
        self.num_lines = self._first_lines[-1]

    @property
    def identity(self):
        """JSON value of what decides about positions: the folder, and where its shards begin."""
        return [self.folder.name, self._starts]

    @property
    def num_positions(self):
        """Number of positions."""
        return self._starts[-1]

    def check(self):
        """Reads all files and compares their checksums.

        Raises:
            TextError: if one differs; it names the file.
        """
        for shard in self.index["shards"]:
            for part in PARTS:
                path = _path(self.folder, shard["number"], part)
                check_checksum(path, shard["files"][part][1])
        for name, checksum in self.index.get("files", {}).items():
            check_checksum(self.folder / name, checksum)

    def new(self):
        """Yields the bytes of each `.new`."""
        for shard in self.index["shards"]:
            yield _path(self.folder, shard["number"], "new").read_bytes()

    def ids(self):
        """Yields the ids of each shard, int32."""
        return iter(self._ids)

    def lines(self, begin, end):
        """Returns the lines from one to another.

        Args:
            begin, end: numbers of lines, from 0.

        Returns:
            `(begins, lengths)`: int64 `[lines]`, the position of each line's first id, and its
            number of ids, without `END`.
        """
        parts = []
        shard = bisect.bisect_right(self._first_lines, begin) - 1
        while begin < end and shard < len(self._ends):
            first = self._first_lines[shard]
            until = min(end, self._first_lines[shard + 1])
            before = self._ends[shard][begin - first - 1] if begin > first else 0
            ends = self._ends[shard][begin - first : until - first].astype(np.int64)
            starts = np.concatenate([[before], ends[:-1]]) + 1
            parts.append((starts + self._starts[shard], ends - starts))
            begin, shard = until, shard + 1
        if not parts:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        return tuple(map(np.concatenate, zip(*parts, strict=True)))

    def read(self, begins, width):
        """Reads ids at positions.

        Args:
            begins: int64 `[B]`, positions of ids that are not the first of a shard.
            width: number of ids from each position on.

        Returns:
            int32 `[B, 1 + width]`: the id before each position, and those from it on. Behind the
            end of the line they mean nothing.
        """
        rows = np.empty([len(begins), 1 + width], np.int32)
        columns = np.arange(-1, width)
        shards = np.searchsorted(self._starts, begins, "right") - 1
        for shard in np.unique(shards).tolist():
            in_shard = shards == shard
            local = (begins[in_shard] - self._starts[shard])[:, None] + columns
            rows[in_shard] = self._ids[shard].take(local, mode="clip")
        return rows

    def _mapped(self, shard, part):
        path = _path(self.folder, shard["number"], part)
        return np.asarray(np.memmap(path, ID, "r"))


def prepared_shards(folder, write):
    """Returns the `Shards` of a folder, which one process writes if it is not complete.

    Args:
        folder: a `pathlib.Path`.
        write: function without arguments that writes the folder.

    Raises:
        TextError: as `open_shards`.
    """
    shards = open_shards(folder)
    if shards is None:
        with one_writer(folder):
            shards = open_shards(folder)
            if shards is None:
                write()
                shards = open_shards(folder)
    return shards


def open_shards(folder):
    """Returns the `Shards` of a folder, or `None` if it is not complete.

    Raises:
        TextError: if a file is damaged, by its size; the index also by its checksum.
    """
    index = read_description(folder / INDEX)
    return Shards(folder, index) if index else None


def _path(folder, number, ending):
    return folder / f"{number:05}.{ending}"


def _problem(folder, description):
    """Returns `(path, problem)` of a file of a shard without its size; `None` if there is none."""
    for part, (size, _) in description["files"].items():
        path = _path(folder, description["number"], part)
        try:
            actual = path.stat().st_size
        except FileNotFoundError:
            return path, "it is missing"
        if actual != size:
            return path, f"it has {actual:,} bytes instead of {size:,}"
    return None
