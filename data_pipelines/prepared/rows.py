"""Where the rows of batches begin in prepared text, sorted by text and cell.

A file for each length of a row (the sentence; or source and target) has the position of each row's
first id, int64. It is mapped to memory, so that a process keeps none of it. It depends on the text
and on the settings that cut rows, and is made once for them.

Axes: G texts, C cells, L lengths of a row, N rows.
"""

import dataclasses
import pathlib

import numpy as np

from tfmoe.data_pipelines.atomic_write import remove_leftovers
from tfmoe.data_pipelines.bucketing import Bucketing
from tfmoe.data_pipelines.prepared.cached import (
    NewFile,
    check_checksum,
    checksum_of,
    damage,
    key_of,
    one_writer,
    read_description,
    write_description,
)

FORMAT = 2  # increase it when the same settings give other files
INDEX = "index.json"
POSITION = np.dtype("<i8")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of texts.

    Args:
        folder: of their files.
        counts: int64 `[G, C]`, rows of each text in each cell.
        begins: L arrays, int64 `[N]`: the position of each row's first id in its text.
        checksums: CRC-32 of the L files.
    """

    folder: pathlib.Path
    counts: np.ndarray
    begins: list[np.ndarray]
    checksums: list[int]

    def positions(self, side, rows, shards):
        """Returns where rows of a text begin.

        Args:
            side: which of the L lengths.
            rows: int64 `[B]`, numbers of rows.
            shards: the `Shards` of this side of the text.

        Returns:
            int64 `[B]`.

        Raises:
            TextError: if one is no position of the text.
        """
        begins = self.begins[side][rows]
        if begins.size and not 0 < begins.min() <= begins.max() < shards.num_positions:
            raise damage(_file(self.folder, side), "it has positions that do not exist")
        return begins

    def check(self):
        """Reads the files and compares their checksums.

        Raises:
            TextError: if one differs; it names the file.
        """
        for side, checksum in enumerate(self.checksums):
            check_checksum(_file(self.folder, side), checksum)


def prepare_rows(folder, settings, texts, bucketing: Bucketing) -> Rows:
    """Sorts rows, and writes where they begin, unless it is there.

    Args:
        folder: the folder of prepared text, a `pathlib.Path`.
        settings: JSON value of all that decides about rows: content of the texts, settings.
        texts: list of functions, one for each text, each of which returns an iterator of chunks
            `(begins, lengths)`, both int64 `[rows, L]`.
        bucketing: the `Bucketing` of the rows.

    Raises:
        TextError: if a file is damaged.
        OSError: if a file cannot be written.
    """
    path = folder / f"rows-{key_of([FORMAT, settings])}"
    index = read_description(path / INDEX)
    if not index:
        with one_writer(path):
            index = read_description(path / INDEX) or _write(path, texts, bucketing)
    counts = np.array(index["counts"], np.int64)
    begins = [_mapped(path, side, counts) for side in range(len(index["checksums"]))]
    return Rows(path, counts, begins, index["checksums"])


def _write(path, texts, bucketing):
    counts = np.zeros([len(texts), len(bucketing.steps)], np.int64)
    for text, chunks in enumerate(texts):
        for _, lengths in chunks():
            counts[text] += np.bincount(bucketing.cells_of(lengths), minlength=counts.shape[1])
    next_rows = np.concatenate([[0], np.cumsum(counts)[:-1]]).reshape(counts.shape)
    remove_leftovers(path)
    files = [NewFile(_file(path, side)) for side in range(len(bucketing.boundaries))]
    try:
        for text, chunks in enumerate(texts):
            for begins, lengths in chunks():
                cells = bucketing.cells_of(lengths)
                order = np.argsort(cells, kind="stable")
                num_rows = np.bincount(cells, minlength=counts.shape[1])
                ends = np.cumsum(num_rows)
                for cell in np.flatnonzero(num_rows):
                    rows = begins[order[ends[cell] - num_rows[cell] : ends[cell]]]
                    for side, file in enumerate(files):
                        column = np.ascontiguousarray(rows[:, side], POSITION)
                        file.write_at(int(next_rows[text, cell]) * POSITION.itemsize, column)
                next_rows[text] += num_rows
        for file in files:
            file.finish()
    finally:
        for file in files:
            file.discard()
    checksums = [checksum_of(_file(path, side)) for side in range(len(files))]
    index = {"counts": counts.tolist(), "checksums": checksums}
    write_description(path / INDEX, index)
    return index


def _file(path, side):
    return path / f"{side}.int64"


def _mapped(path, side, counts):
    file = _file(path, side)
    size = file.stat().st_size if file.exists() else None
    if size != counts.sum() * POSITION.itemsize:
        raise damage(file, f"it has {size} bytes instead of {counts.sum() * POSITION.itemsize}")
    if not size:
        return np.zeros(0, POSITION)
    return np.asarray(np.memmap(file, POSITION, "r"))
