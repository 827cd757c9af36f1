"""The folder of a training run: its paths and small files."""

import csv
import json
import math
import os
import pathlib
import shutil
from typing import Any

from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.training.run_lock import check_no_training


class RunDirectory:
    """The paths of a run, and functions that read and write its small files.

    A run consists of `config.yaml` (resolved), `run.json` (versions, vocabulary fingerprint, data
    files), `vocabulary.txt` (words) or `vocabulary.model` (subwords), `checkpoints/`, `history.csv`
    (one row per epoch), `logs/` (TensorBoard) and `result.json` (after training has finished).
    Every file is written under a temporary name and then renamed. `config.yaml` is written last of
    the files that training needs: an error before training leaves no run behind.

    Args:
        path: path of the folder, which need not exist.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)
        self.config = self.path / "config.yaml"
        self.facts = self.path / "run.json"
        self.vocabulary = self.path / "vocabulary.txt"
        self.subwords = self.path / "vocabulary.model"
        self.checkpoints = self.path / "checkpoints"
        self.history = self.path / "history.csv"
        self.logs = self.path / "logs"
        self.result = self.path / "result.json"

    def begun(self) -> bool:
        """Whether the folder contains a run."""
        return self.config.exists()

    def clear(self):
        """Removes the files of the run, and keeps other files of the folder.

        Raises:
            BlockingIOError: if a process is training in the folder.
        """
        check_no_training(self.path)
        files = (self.config, self.result, self.facts, self.vocabulary, self.subwords, self.history)
        for file in files:
            file.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.logs):
            shutil.rmtree(folder, ignore_errors=True)

    def check(self):
        """Checks that the folder contains a run.

        Raises:
            FileNotFoundError: if a file is missing; the message names it.
        """
        missing = [file.name for file in (self.config, self.facts) if not file.is_file()]
        vocabularies = (self.vocabulary, self.subwords)
        if not any(file.is_file() for file in vocabularies):
            missing.append(" or ".join(file.name for file in vocabularies))
        if missing:
            raise FileNotFoundError(
                f"{self.path} is not the folder of a run: it has no {missing[0]}"
            )

    def write_json(self, path: pathlib.Path, value: object):
        """Writes a JSON file of the run.

        Args:
            path: one of the attributes, such as `facts`.
            value: what `json.dump` accepts.
        """
        with atomic_write(path) as file:
            json.dump(value, file, indent=1, ensure_ascii=False)
            file.write("\n")

    def read_json(self, path: pathlib.Path) -> Any:
        """Reads a JSON file of the run.

        Args:
            path: one of the attributes, such as `facts`.

        Raises:
            ValueError: if the file is not JSON; the message names the line.
        """
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{error.lineno}: not JSON: {error.msg}") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: not UTF-8: {error.reason}") from error

    def read_facts(self) -> dict:
        """Reads `run.json`.

        Raises:
            ValueError: if a key is missing or the file is not JSON.
        """
        facts = self.read_json(self.facts)
        for key in ("vocabulary", "text"):
            if not isinstance(facts, dict) or key not in facts:
                raise ValueError(f"{self.facts} is incomplete: missing key {key!r}")
        return facts

    def read_result(self) -> dict:
        """Reads `result.json`, the measures of the best weights; `{}` before the run has finished.

        Raises:
            ValueError: if the file is not a JSON object.
        """
        if not self.result.is_file():
            return {}
        result = self.read_json(self.result)
        if not isinstance(result, dict):
            raise ValueError(f"{self.result} must be a JSON object, got {type(result).__name__}")
        return result

    def read_history(self) -> list[dict[str, float]]:
        """Reads `history.csv`: a list of `{column: value}` for the finished epochs, in order.

        Raises:
            ValueError: if a line is malformed; the message names it.
        """
        if not self.history.exists():
            return []
        with open(self.history, encoding="utf-8", errors="replace", newline="") as file:
            columns, *lines = [*csv.reader(file)] or [[]]
        if not lines or columns[:1] != ["epoch"]:
            raise ValueError(f"{self.history}:1: not a history: its first column must be epoch")
        rows = []
        for line_number, values in enumerate(lines, 2):
            try:
                pairs = zip(columns, values, strict=True)
                rows.append({name: float(value) for name, value in pairs if value})
            except ValueError as error:
                raise ValueError(
                    f"{self.history}:{line_number}: not a row of numbers: {error}"
                ) from error
        return rows

    def write_history(self, rows: list[dict[str, float]]):
        """Writes `history.csv`, with the columns in order of first occurrence.

        Args:
            rows: `{column: value}` of every epoch.
        """
        columns = list(dict.fromkeys(name for row in rows for name in row))
        with atomic_write(self.history) as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            writer.writeheader()
            writer.writerows(
                {name: _without_point(value) for name, value in row.items()} for row in rows
            )


def _without_point(value):
    """Converts whole numbers to int: an epoch is 3, not 3.0."""
    return int(value) if math.isfinite(value) and value == int(value) else value
