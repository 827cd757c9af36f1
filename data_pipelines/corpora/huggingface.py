"""Data sets of the Hugging Face `datasets` library."""

import dataclasses

from tfmoe.data_pipelines.corpora.records import HasRecords, LanguageRecords, ParallelRecords
from tfmoe.data_pipelines.records.huggingface import load_split


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFaceSplits(HasRecords):
    """The data set and splits of the Hugging Face `datasets` library.

    Args:
        path, config_name, data_files, revision, cache_dir, train, valid, test: as for
            `HuggingFaceText`.
    """

    path: str
    config_name: str | None = None
    data_files: list[str] = dataclasses.field(default_factory=list)
    revision: str | None = None
    cache_dir: str | None = None
    train: str = "train"
    valid: str | None = "validation"
    test: str | None = "test"

    def records(self, part):
        split = getattr(self, part)
        if not split:
            return []
        return [
            load_split(
                self.path,
                split,
                f"data.{part}",
                name=self.config_name,
                data_files=self.data_files or None,
                revision=self.revision,
                cache_dir=self.cache_dir,
            )
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HuggingFaceText(HuggingFaceSplits, LanguageRecords):
    """A data set of the Hugging Face `datasets` library; needs the extra `huggingface`.

    It is loaded with `datasets.load_dataset`, from its cache or from the hub; no code of a data
    set is run. The text of a record is a document: its lines are lines of the corpus. Records
    without text are skipped. The text is written once, as plain lines, into the cache of tfmoe.

    Args:
        path: name on the hub, such as Salesforce/wikitext; or a local folder of data files, or one
            written by `save_to_disk`; or a format, such as csv, with `data_files`.
        config_name: the data set's configuration (subset), such as wikitext-2-v1; `name` of
            `load_dataset`.
        data_files: paths or globs, for a format.
        revision: commit or tag on the hub; null for the newest.
        cache_dir: cache of `datasets`; null for its default.
        train, valid, test: splits, such as train or train[:90%]; null for none.
        column: name of the column, a nested one as `document.text`.
        tokenization: `words` if white space separates the words of the text, `text` to split
            running text into lower-case words, numbers and punctuation marks.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ParallelHuggingFace(HuggingFaceSplits, ParallelRecords):
    """A data set of the Hugging Face `datasets` library with sentences and their translations;
    needs the extra `huggingface`.

    Args:
        path: name on the hub, such as wmt/wmt14; or a local folder of data files, or one written by
            `save_to_disk`; or a format, such as csv, with `data_files`.
        config_name: the data set's configuration (subset), such as de-en; `name` of `load_dataset`.
        data_files: paths or globs, for a format.
        revision: commit or tag on the hub; null for the newest.
        cache_dir: cache of `datasets`; null for its default.
        train, valid, test: splits, such as train or train[:90%]; null for none.
        source_language, target_language: names of the languages, such as de and en.
        source_column, target_column: names of the columns; null for the language's name, or
            `translation.LANGUAGE`.
        empty_sides: what to do if one side of a record is empty, error or skip.
    """
