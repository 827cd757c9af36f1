"""Files of records and of text, by the ending of their names."""

import os

from tfmoe.data_pipelines.reading import read_lines
from tfmoe.data_pipelines.records.file_records import FileRecords
from tfmoe.data_pipelines.records.json_lines import JsonLines
from tfmoe.data_pipelines.records.parquet import Parquet

LINE = "line"  # the only column of lines of text
READERS = {".jsonl": JsonLines, ".ndjson": JsonLines, ".json": JsonLines, ".parquet": Parquet}


class Lines(FileRecords):
    """The lines of a text file as records.

    Args:
        path: of the file; gzip if it ends in `.gz`.
    """

    def columns(self):
        return [LINE]

    def read(self, columns):
        for number, line in enumerate(read_lines(self.name), 1):
            yield number, {LINE: line.decode("utf-8")}

    def place(self, number):
        return f"{self.name}:{number}"


def reader_of(path):
    """Returns the class of `Records` of a file by its ending; `None` if it is no file of records.
    JSON lines may have `.gz` after it.
    """
    path = os.fspath(path)
    plain = path.removesuffix(".gz")
    reader = READERS.get(os.path.splitext(plain)[1])
    return None if reader is Parquet and plain != path else reader
