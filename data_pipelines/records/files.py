"""Readers of files of records and of text, by file extension."""

import os

from tfmoe.data_pipelines.reading import read_lines
from tfmoe.data_pipelines.records.file_records import FileRecords
from tfmoe.data_pipelines.records.json_lines import JsonLines
from tfmoe.data_pipelines.records.parquet import Parquet

LINE = "line"  # the only column of a text file
READERS = {".jsonl": JsonLines, ".ndjson": JsonLines, ".json": JsonLines, ".parquet": Parquet}


class Lines(FileRecords):
    """The lines of a text file as records.

    Args:
        path: path of the file; gzip if it ends in `.gz`.
    """

    def columns(self):
        return [LINE]

    def read(self, columns):
        for number, line in enumerate(read_lines(self.name), 1):
            yield number, {LINE: line.decode("utf-8")}

    def place(self, number):
        return f"{self.name}:{number}"


def reader_of(path):
    """Returns the class of `Records` for a file extension; `None` if it is not a file of records.
    Files of JSON lines may also end in `.gz`.
    """
    path = os.fspath(path)
    plain = path.removesuffix(".gz")
    reader = READERS.get(os.path.splitext(plain)[1])
    return None if reader is Parquet and plain != path else reader
