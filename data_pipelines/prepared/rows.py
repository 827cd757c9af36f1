"""Where the rows of batches begin in prepared text, sorted by text and cell.

A file for each length of a row (the sentence; or source and target) has the position of each row's
first id, int64. It is mapped to memory, so that a process keeps none of it. It depends on the text
and on the settings that cut rows, and is made once for them.

Axes: G texts, C cells, L lengths of a row, N rows.
"""

import dataclasses
import pathlib

import numpy as np

from tfmoe.data_pipelines.bucketing import Bucketing
from tfmoe.data_pipelines.prepared.cached import (
    NewFile,
    damage,
    key_of,
    one_writer,
    read_description,
    write_description,
)

FORMAT = 1  # increase it when the same settings give other files
INDEX = "index.json"
POSITION = np.dtype("<i8")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of texts.

    Args:
        folder: of their files.
        counts: int64 `[G, C]`, rows of each text in each cell.
        begins: L arrays, int64 `[N]`: the position of each row's first id in its text.
    """

    folder: pathlib.Path
    counts: np.ndarray
    begins: list[np.ndarray]


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
    return Rows(path, counts, [_mapped(path, side, counts) for side in range(index["sides"])])


def _write(path, texts, bucketing):
    counts = np.zeros([len(texts), len(bucketing.steps)], np.int64)
    for text, chunks in enumerate(texts):
        for _, lengths in chunks():
            counts[text] += np.bincount(bucketing.cells_of(lengths), minlength=counts.shape[1])
    places = np.concatenate([[0], np.cumsum(counts)[:-1]]).reshape(counts.shape)
    files = [NewFile(_file(path, side)) for side in range(len(bucketing.boundaries))]
    try:
        for text, chunks in enumerate(texts):
            for begins, lengths in chunks():
                cells = bucketing.cells_of(lengths)
                order = np.argsort(cells, kind="stable")
                found = np.bincount(cells, minlength=counts.shape[1])
                ends = np.cumsum(found)
                for cell in np.flatnonzero(found):
                    rows = begins[order[ends[cell] - found[cell] : ends[cell]]]
                    for side, file in enumerate(files):
                        column = np.ascontiguousarray(rows[:, side], POSITION)
                        file.write_at(int(places[text, cell]) * POSITION.itemsize, column)
                places[text] += found
        for file in files:
            file.finish()
    finally:
        for file in files:
            file.discard()
    index = {"counts": counts.tolist(), "sides": len(files)}
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
