"""Records of one file."""

import os

from tfmoe.data_pipelines.records.file_state import file_state, title_of
from tfmoe.data_pipelines.records.records import Records


class FileRecords(Records):
    """Base class of the records of a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: str):
        super().__init__(path, title_of(path), os.path.abspath(path))

    def state(self):
        return file_state(self.name)
