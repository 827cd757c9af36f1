"""Records of JSON lines: a file of UTF-8 text, plain or gzip, with one JSON object per line."""

import json
import pathlib

from tfmoe.data_pipelines.reading import TextError, read_lines
from tfmoe.data_pipelines.records.file_records import FileRecords
from tfmoe.data_pipelines.records.records import names_in


class JsonLines(FileRecords):
    """The records of a file of JSON lines. Blank lines are skipped but counted.

    Args:
        path: path of the file; gzip if it ends in `.gz`.
    """

    def columns(self):
        """The columns of the first record."""
        for _, record in self.read(()):
            return names_in(record)
        raise TextError(f"{self.name}: the file has no records; expected one JSON object per line")

    def read(self, columns):
        for number, line in enumerate(read_lines(self.name), 1):
            if line.strip():
                yield number, self._parsed(number, line)

    def _parsed(self, number, line):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == 1 and line.lstrip().startswith(b"["):
                raise self._is_a_list() from None
            place = f"{self.name}:{number}:{error.colno}"
            raise TextError(
                f"{place}: not JSON: {error.msg}; each line must be an object"
            ) from None
        except (ValueError, RecursionError) as error:  # such as 5000 digits or 5000 levels
            raise TextError(f"{self.place(number)}: not usable JSON: {error}") from None
        if isinstance(record, dict):
            return record
        if number == 1 and isinstance(record, list):
            raise self._is_a_list()
        raise TextError(
            f"{self.place(number)}: each line must be a JSON object, got a {type(record).__name__}"
        )

    def _is_a_list(self):
        name = pathlib.Path(self.name)
        return TextError(
            f"{self.place(1)}: a JSON list; JSON lines have one object per line: jq -c '.[]' {name}"
            f" > {name.with_suffix('.jsonl')}"
        )

    def place(self, number):
        return f"{self.name}:{number}"
