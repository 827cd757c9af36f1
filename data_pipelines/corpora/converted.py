"""Writes columns of records once, as lines of text in the cache.

Reading, shuffling, resuming, evaluating and inspecting then work as for text files. Each file or
split has a folder with the text and a `corpus.json`, which contains the state of the records: if it
changes, the text is written again. Incomplete text never appears under its final name. The size on
disk is that of the uncompressed text.
"""

import hashlib
import pathlib
import time

from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.data_pipelines.corpora import written
from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.records.files import LINE, Lines, reader_of
from tfmoe.data_pipelines.records.loading import FULL
from tfmoe.data_pipelines.records.records import choose_columns, texts
from tfmoe.data_pipelines.text import find_files
from tfmoe.data_pipelines.tokenization import tokenize

FORMAT = 1  # increase it when the same records give other text
SECONDS_BETWEEN_REPORTS = 10
CACHE_IS_FULL = "set TFMOE_CACHE to a folder on a disk with room for the text"
WHITE_SPACE = " \t\n\r\v\f"


def as_text(records, directory, candidates, tokenization):
    """Writes the text of a column to a file, without blank lines. A record can have several lines.

    Args:
        records: a `Records`.
        directory: parent of the folders of text.
        candidates: `{setting: possible names of the column}`, with one item.
        tokenization: `"words"` to write lines as they are, `"text"` to split running text into
            words with `tokenization.tokenize`.

    Returns:
        Path of the text.

    Raises:
        TextError: if there is no such column or no text in it.
        OSError: if the text cannot be written.
    """
    folder = _folder(records, directory)
    path = folder / f"{records.title}.txt"

    def write(columns):
        with atomic_write(path) as file:
            return _write_lines(records, columns, file, tokenization)

    _write_once(records, folder, candidates, {"tokenization": tokenization}, [path], write)
    return str(path)


def files_as_text(patterns, directory, column="text", tokenization="words"):
    """Returns text files for files of any format, by file extension: plain text itself (or split
    into words), and the output of `as_text` for JSON lines and Parquet.

    Args:
        patterns: a path or glob or a list of them.
        directory, tokenization: as for `as_text`.
        column: name of the column of records.

    Returns:
        List of paths.

    Raises:
        TextError: as for `find_files` and `as_text`.
    """
    files = []
    for path in find_files(patterns):
        reader = reader_of(path)
        if reader:
            path = as_text(reader(path), directory, {"column": [column]}, tokenization)
        elif tokenization == "text":
            path = as_text(Lines(path), directory, {"column": [LINE]}, tokenization)
        files.append(path)
    return files


def as_parallel_text(records, directory, candidates, languages, empty):
    """Writes the texts of two columns to a pair of files, with one line per record.

    Args:
        records, directory: as for `as_text`.
        candidates: `{setting: possible names of the column}`, for source and target.
        languages: `(source, target)`, the extensions of the files.
        empty: what to do if one side of a record is blank: `"error"` or `"skip"`.

    Returns:
        `(path of the sources, path of the targets)`.

    Raises:
        TextError: as for `as_text`; for a blank side if `empty` is `"error"`.
        OSError: if the text cannot be written.
    """
    folder = _folder(records, directory)
    paths = [folder / f"{records.title}.{language}" for language in languages]

    def write(columns):
        with atomic_write(paths[0]) as source, atomic_write(paths[1]) as target:
            return _write_pairs(records, columns, (source, target), empty)

    _write_once(records, folder, candidates, {"empty": empty}, paths, write)
    return tuple(map(str, paths))


def _folder(records, directory):
    digest = hashlib.sha256(records.identity.encode("utf-8", "surrogateescape")).hexdigest()
    return pathlib.Path(directory) / f"{records.title}-{digest[:12]}"


def _write_once(records, folder, candidates, settings, paths, write):
    """Writes text unless the folder has the text of these records in their current state.

    Args:
        records, candidates: as for `as_text`.
        folder: folder of the text.
        settings: JSON value of other settings that determine the text.
        paths: paths of the files.
        write: function of the column names, which writes the files and returns the numbers of lines
            and of records without text.
    """
    state = records.state()
    names = {setting: list(columns) for setting, columns in candidates.items()}
    made_from = {"format": FORMAT, "state": state, "columns": names, **settings}
    if state is not None and written.is_complete(folder, {"made_from": made_from}, paths):
        return
    columns = choose_columns(records, candidates)
    written.begin(folder)
    try:
        lines, left_out = write(columns)
    except OSError as error:
        if error.errno in FULL:
            error.add_note(CACHE_IS_FULL)
        raise
    if not lines:
        for path in paths:
            path.unlink(missing_ok=True)
        raise TextError(f"{records.name}: no record has text in {' and '.join(columns)}")
    counts = {"lines": lines, "records_without_text": left_out}
    written.finish(folder, {"records": records.name, "made_from": made_from, "counts": counts})


def _write_lines(records, columns, file, tokenization):
    """Writes the lines of all records. Returns the numbers of lines and of records without one."""
    lines = left_out = 0
    for _, (text,) in _with_progress(records, columns):
        before = lines
        for line in text.replace("\r", " ").split("\n"):
            if tokenization == "text":
                line = " ".join(tokenize(line))
            if line.strip(WHITE_SPACE):
                file.write(f"{line}\n")
                lines += 1
        left_out += lines == before
    return lines, left_out


def _write_pairs(records, columns, files, empty):
    """Writes both sides of all records. Returns the numbers of lines and of skipped records."""
    lines = left_out = 0
    for number, sides in _with_progress(records, columns):
        blank = [c for c, text in zip(columns, sides, strict=True) if not text.strip(WHITE_SPACE)]
        if not blank:
            for file, text in zip(files, sides, strict=True):
                file.write(text.replace("\r", " ").replace("\n", " ") + "\n")
            lines += 1
        elif empty == "skip":
            left_out += 1
        else:
            raise TextError(
                f"{records.place(number)}: column {blank[0]!r} is empty, so the other side has no"
                " translation; remove the record, or set data.empty_sides: skip"
            )
    return lines, left_out


def _with_progress(records, columns):
    """Yields the items of `texts`, and prints the progress from time to time."""
    reported = time.monotonic()
    for index, item in enumerate(texts(records, columns)):
        yield item
        if time.monotonic() - reported >= SECONDS_BETWEEN_REPORTS:
            total = "" if records.count is None else f" of {records.count:,}"
            print(f"{records.name}: {index + 1:,}{total} records written as text", flush=True)
            reported = time.monotonic()
