"""Data sets of TensorFlow Datasets."""

import dataclasses
import functools

from tfmoe.data_pipelines.corpora.records import HasRecords, LanguageRecords, ParallelRecords
from tfmoe.data_pipelines.records.tfds import DATASET, load_builder, load_split


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSplits(HasRecords):
    """The data set and splits of TensorFlow Datasets.

    Args:
        dataset, data_dir, train, valid, test: as for `TfdsText`.
    """

    dataset: str
    data_dir: str | None = None
    train: str = "train"
    valid: str | None = "validation"
    test: str | None = "test"

    def problems(self):
        if not DATASET.fullmatch(self.dataset):
            yield (
                "dataset must be NAME or NAME/CONFIG, :VERSION may follow, such as"
                f" wmt14_translate/de-en:1.0.0; got {self.dataset!r}"
            )
        yield from super().problems()

    @functools.cached_property
    def _builder(self):
        return load_builder(self.dataset, self.data_dir)

    def records(self, part):
        split = getattr(self, part)
        return [load_split(self._builder, split, f"data.{part}")] if split else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsText(TfdsSplits, LanguageRecords):
    """A data set of TensorFlow Datasets; needs the extra `tfds`.

    It is downloaded and prepared unless `data_dir` has it. The text of a record is
    a document: its lines are lines of the corpus. Records without text are skipped. The text is
    written once, as plain lines, into the cache of tfmoe.

    Args:
        dataset: NAME or NAME/CONFIG, `:VERSION` may follow, such as lm1b:1.1.0.
        data_dir: folder of TensorFlow Datasets; null for `~/tensorflow_datasets`.
        train, valid, test: splits, such as train or train[:90%]; null for none.
        column: name of the feature, a nested one as `document.text`.
        tokenization: `words` if white space separates the words of the text, `text` to split
            running text into lower-case words, numbers and punctuation marks.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelTfds(TfdsSplits, ParallelRecords):
    """A data set of TensorFlow Datasets with sentences and their translations; needs the extra
    `tfds`.

    Args:
        dataset: NAME or NAME/CONFIG, `:VERSION` may follow, such as wmt14_translate/de-en.
        data_dir: folder of TensorFlow Datasets; null for `~/tensorflow_datasets`.
        train, valid, test: splits, such as train or train[:90%]; null for none.
        source_language, target_language: names of the languages, such as de and en.
        source_column, target_column: names of the features; null for the language's name, or
            `translation.LANGUAGE`.
        empty_sides: what to do if one side of a record is empty, error or skip.
    """
