"""Records of Parquet files. Needs pyarrow."""

from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.records.file_records import FileRecords
from tfmoe.data_pipelines.records.file_state import file_state
from tfmoe.extras import optional, require

pyarrow = optional("pyarrow")
pyarrow_parquet = optional("pyarrow.parquet")

ROWS_AT_A_TIME = 1024


class Parquet(FileRecords):
    """The records of a Parquet file. Only the needed columns are read, in batches of rows.

    Args:
        path: path of the file.
    """

    def columns(self):
        with self._opened() as file:
            self.count = file.metadata.num_rows
            return _names(file.schema_arrow)

    def read(self, columns):
        first = 1
        with self._opened() as file:
            for batch in self._batches(file, list(columns)):
                try:
                    rows = batch.to_pylist()
                except UnicodeDecodeError as error:
                    rows = f"rows {first} to {first + batch.num_rows - 1}"
                    raise TextError(
                        f"{self.name}: one of the {rows} is not valid UTF-8: {error}"
                    ) from None
                yield from enumerate(rows, first)
                first += len(rows)

    def _batches(self, file, columns):
        try:
            yield from file.iter_batches(batch_size=ROWS_AT_A_TIME, columns=columns)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _opened(self):
        file_state(self.name)  # raises if there is no such file
        require("pyarrow")
        try:
            return pyarrow_parquet.ParquetFile(self.name)
        except (pyarrow.ArrowException, OSError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error):
        return TextError(f"{self.name}: cannot be read as a Parquet file: {error}")


def _names(fields):
    """The column names of a pyarrow schema or struct type; nested columns have dots."""
    names = []
    for field in fields:
        nested = _names(field.type) if pyarrow.types.is_struct(field.type) else []
        names += [f"{field.name}.{inner}" for inner in nested] or [field.name]
    return names
