"""Records of a data set of the Hugging Face library `datasets`, which must be installed."""

import os

from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.records.file_state import file_state, title_of
from tfmoe.data_pipelines.records.loading import loading
from tfmoe.data_pipelines.records.records import Records
from tfmoe.extras import optional, require

datasets = optional("datasets")

ROWS_AT_A_TIME = 1024
SAVED = ("dataset_dict.json", "state.json")  # `save_to_disk` writes one of these


class HuggingFaceRecords(Records):
    """The records of a `datasets.Dataset`.

    Args:
        dataset: the `datasets.Dataset`.
        name, title, identity: as for `Records`.
    """

    def __init__(self, dataset, name, title, identity):
        super().__init__(name, title, identity)
        self._dataset = dataset.with_format(None)
        self.count = len(dataset)

    def state(self):
        """The states of the Arrow files; `None` for a data set in memory."""
        files = sorted(file["filename"] for file in self._dataset.cache_files)
        return [[file, *file_state(file)] for file in files] or None

    def columns(self):
        return _names(self._dataset.features)

    def read(self, columns):
        known = self._dataset.column_names
        first = {column if column in known else column.partition(".")[0] for column in columns}
        dataset = self._dataset.select_columns(sorted(first & set(known)))
        number = 0
        for batch in dataset.iter(batch_size=ROWS_AT_A_TIME):
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield number, dict(zip(batch, values, strict=True))


def load_split(path, split, key, **arguments):
    """Loads a split of a data set, from the cache of `datasets` if possible.

    No code of the data set is run: `datasets` 4 and later have no loading scripts.

    Args:
        path: name of a data set or format (`"json"`, `"csv"`, …), or a folder of data files or of
            `save_to_disk`.
        split: the split, such as `"train"` or `"train[:10%]"`.
        key: config key of the split, such as `"data.valid"`.
        **arguments: other arguments of `datasets.load_dataset` (`name`, `data_files`, `revision`,
            `cache_dir`); those that are `None` are
            not passed.

    Returns:
        A `HuggingFaceRecords`.

    Raises:
        MissingExtra: if `datasets` is not installed.
        TextError: if the data set cannot be loaded.
    """
    require("datasets")
    arguments = {key: value for key, value in arguments.items() if value is not None}
    folder = os.path.expanduser(path)
    path = folder if os.path.isdir(folder) else path
    name = f"{path}[{split}]"
    with loading(name, f"data.path, {key}"):
        if any(os.path.isfile(os.path.join(path, file)) for file in SAVED):
            dataset = _saved_split(datasets.load_from_disk(path), path, split, key)
        else:
            dataset = datasets.load_dataset(path, split=split, **arguments)
    where = os.path.abspath(path) if os.path.isdir(path) else path
    identity = repr((where, split, os.getcwd() if "data_files" in arguments else "", arguments))
    return HuggingFaceRecords(dataset, name, f"{title_of(path)}-{title_of(split)}", identity)


def _saved_split(saved, path, split, key):
    """A split of the output of `save_to_disk`: a `Dataset`, or a `DatasetDict` of splits."""
    splits = saved if isinstance(saved, dict) else {str(saved.split or "train"): saved}
    if split not in splits:
        raise TextError(
            f"{path}: there is no split {split!r} ({key}); the saved splits are {', '.join(splits)}"
        )
    return splits[split]


def _names(features):
    """The column names of `datasets.Features`; nested columns have dots."""
    names = []
    for name, feature in features.items():
        nested = _names(feature) if isinstance(feature, dict) else _translations(feature)
        names += [f"{name}.{inner}" for inner in nested] or [name]
    return names


def _translations(feature):
    """The languages of a `datasets.Translation`; none for other features."""
    return list(getattr(feature, "languages", None) or [])
