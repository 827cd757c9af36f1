"""What is counted in parallel text, and the subwords that are trained on it, in the cache."""

import pathlib

from tfmoe.data_pipelines.changes import check_unchanged, stamps
from tfmoe.data_pipelines.parallel_files import ParallelFiles
from tfmoe.data_pipelines.parallel_text import ParallelSurvey, survey_parallel
from tfmoe.data_pipelines.prepared.cached import (
    contents_of,
    hint_if_full,
    key_of,
    one_writer,
    read_description,
    write_description,
)
from tfmoe.data_pipelines.reading import is_gzip
from tfmoe.data_pipelines.sgm import is_sgm
from tfmoe.data_pipelines.subwords import Subwords

FORMAT = 1  # increase it when the same text gives other results


def prepared_survey(files: ParallelFiles, folder, empty: str = "error") -> ParallelSurvey:
    """Returns what `survey_parallel` does without subwords; text is read if its content is new.

    Args:
        files: a `ParallelFiles`.
        folder: the folder of prepared text.
        empty: as for `survey_parallel`.

    Raises:
        TextError, ValueError: as `survey_parallel`.
        TextError: if a file changes while it is read.
    """
    folder = pathlib.Path(folder) / "surveys"
    paths = _paths([files])
    stamped = stamps(paths)
    key = key_of([FORMAT, parallel_content([files], folder.parent), empty])
    path = folder / f"{key}.json"
    known = read_description(path, damaged=dict)
    if not known:
        with one_writer(folder, key, f"check {', '.join(paths[:2])}"):
            known = read_description(path, damaged=dict) or _survey(files, empty)
            check_unchanged(stamped)
            write_description(path, known)
    return ParallelSurvey(**known, lengths=None)


def _survey(files, empty):
    survey = survey_parallel(files, empty=empty)
    return {
        name: getattr(survey, name) for name in ("pairs", "empty", "source_words", "target_words")
    }


def prepared_subwords(files_list, folder, settings, train) -> Subwords:
    """Returns the subwords of text, which are trained if the content or the settings are new.

    Args:
        files_list: list of `ParallelFiles`.
        folder: the folder of prepared text.
        settings: JSON value of what else decides.
        train: function that trains the `Subwords`.

    Raises:
        TextError: if a file changes while it is read.
    """
    folder = pathlib.Path(folder) / "subwords"
    stamped = stamps(_paths(files_list))
    key = key_of([FORMAT, parallel_content(files_list, folder.parent), settings])
    path = folder / f"{key}.model"
    if not path.exists():
        with one_writer(folder, key, "train subwords"):
            if not path.exists():
                subwords = train()
                check_unchanged(stamped)
                with hint_if_full(path):
                    subwords.save(path)
    return Subwords.load(path)


def parallel_content(files_list, folder):
    """Digest of the content of the files of a list of `ParallelFiles`.

    Args:
        files_list: list of `ParallelFiles`.
        folder: the folder of prepared text.
    """
    paths = _paths(files_list)
    kinds = [(is_gzip(path), is_sgm(path)) for path in paths]
    return key_of([contents_of(paths, folder), kinds])


def _paths(files_list):
    return [path for files in files_list for path in files.source + files.target]
