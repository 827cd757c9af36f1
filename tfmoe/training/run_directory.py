"""The folder of a training run: what lies where, and how it is written."""

import csv
import json
import pathlib

from data_pipelines.atomic_write import atomic_write


class RunDirectory:
    """Paths of a run, and its small files.

    `config.yaml` (resolved), `run.json` (versions, vocabulary fingerprint, data files),
    `vocabulary.txt`, `checkpoints/`, `history.csv` (a row per epoch), `logs/` (TensorBoard),
    `result.json` (once it is finished). Every file is written under a temporary name and renamed.

    Args:
        path: of the folder; it need not exist.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.vocabulary = self.path / "vocabulary.txt"
        self.checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.csv"
        self.logs = self.path / "logs"
        self.result = self.path / "result.json"

    def begun(self):
        """Whether there is a run in the folder."""
        return self.config.exists()

    def check(self):
        """Raises a FileNotFoundError that says what is missing, if this is not a run."""
        for file in (self.config, self.facts, self.vocabulary):
            if not file.is_file():
                raise FileNotFoundError(
                    f"{self.path} is not the folder of a run: it has no {file.name}"
                )

    def write_json(self, path, value):
        """Writes a JSON file of the run."""
        with atomic_write(path) as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.write("\n")

    def read_json(self, path):
        """Reads a JSON file of the run; a ValueError names a broken one."""
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error

    def read_history(self):
        """The finished epochs: a list of `{column: float}`, in order."""
        if not self.history.exists():
            return []
        with open(self.history, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file)
            return [{name: float(value) for name, value in row.items() if value} for row in rows]

    def write_history(self, rows):
        """Writes the whole history; columns in the order in which they first occur."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(self.history) as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
