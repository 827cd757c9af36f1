"""The folder of a training run: what lies where, and how it is written."""

import csv
import json
import math
import pathlib
import shutil

from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.training.run_lock import check_no_training


class RunDirectory:
    """Paths of a run, and its small files.

    `config.yaml` (resolved), `run.json` (versions, vocabulary fingerprint, data files),
    `vocabulary.txt` (words) or `vocabulary.model` (subwords), `checkpoints/`, `history.csv` (a row
    per epoch), `logs/` (TensorBoard), `result.json` (once it is finished). Every file is written
    under a temporary name and renamed; `config.yaml` comes last of those that training needs, so
    that a mistake found before training leaves no run behind.

    Args:
        path: of the folder; it need not exist.
    """

    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.vocabulary = self.path / "vocabulary.txt"
        self.subwords = self.path / "vocabulary.model"
        self.checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.csv"
        self.logs = self.path / "logs"
        self.result = self.path / "result.json"

    def begun(self):
        """Whether there is a run in the folder."""
        return self.config.exists()

    def clear(self):
        """Removes the run, and nothing else that may lie in the folder. A BlockingIOError says so,
        if a process trains there.
        """
        check_no_training(self.path)
        files = (self.config, self.result, self.facts, self.vocabulary, self.subwords, self.history)
        for file in files:
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.logs):
            shutil.rmtree(folder, ignore_errors=True)

    def check(self):
        """Raises a FileNotFoundError that says what is missing, if this is not a run."""
        missing = [file.name for file in (self.config, self.facts) if not file.is_file()]
        vocabularies = (self.vocabulary, self.subwords)
        if not any(file.is_file() for file in vocabularies):
            missing.append(" or ".join(file.name for file in vocabularies))
        if missing:
            raise FileNotFoundError(
                f"{self.path} is not the folder of a run: it has no {missing[0]}"
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
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8: {error.reason}") from error

    def read_facts(self):
        """What `run.json` holds; a ValueError says what is missing."""
        facts = self.read_json(self.facts)
        for key in ("vocabulary", "text"):
            if not isinstance(facts, dict) or key not in facts:
                raise ValueError(f"{self.facts}: is not what a run began with: it has no {key!r}")
        return facts

    def read_result(self):
        """What `result.json` holds, measured on the best weights; `{}` before the run is finished.
        A ValueError names a broken one.
        """
        if not self.result.is_file():
            return {}
        found = self.read_json(self.result)
        if not isinstance(found, dict):
            raise ValueError(f"{self.result}: is not a result: it has no names")
        return found

    def read_history(self):
        """The finished epochs: a list of `{column: float}`, in order; a ValueError names a broken
        line.
        """
        if not self.history.exists():
            return []
        with open(self.history, encoding="utf-8", errors="replace", newline="") as file:
            columns, *lines = [*csv.reader(file)] or [[]]
        if not lines or columns[:1] != ["epoch"]:
            raise ValueError(f"{self.history}:1: not a history: its first column must be epoch")
        rows = []
        for number, values in enumerate(lines, 2):
            try:
                pairs = zip(columns, values, strict=True)
                rows.append({name: float(value) for name, value in pairs if value})
            except ValueError as error:
                raise ValueError(
                    f"{self.history}:{number}: not a row of numbers: {error}"
                ) from error
        return rows

    def write_history(self, rows):
        """Writes the whole history; columns in the order in which they first occur."""
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(self.history) as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows({name: _number(value) for name, value in row.items()} for row in rows)


def _number(value):
    """Whole numbers without a point: an epoch is 3, not 3.0."""
    return int(value) if math.isfinite(value) and value == int(value) else value
