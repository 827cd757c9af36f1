"""Records of TensorFlow Datasets; `tensorflow_datasets` must be installed."""

import os
import re

from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.records.file_state import file_state, title_of
from tfmoe.data_pipelines.records.loading import loading
from tfmoe.data_pipelines.records.records import Records, value_of
from tfmoe.extras import optional, require

tfds = optional("tensorflow_datasets")

# NAME or NAME/CONFIG, optionally with :VERSION; not NAMESPACE:NAME, which runs downloaded code.
DATASET = re.compile(r"\w+(/[\w.+-]+)?(:(\d+|\*)(\.(\d+|\*)){0,2})?")


class TfdsRecords(Records):
    """The records of a split of a `tfds.core.DatasetBuilder`, in the order of its files.

    Args:
        builder: the builder of a prepared data set.
        split: the split, such as `"train"` or `"train[:10%]"`.
    """

    def __init__(self, builder, split):
        self._builder, self._split = builder, split
        self._info = builder.info.splits[split]
        self.count = self._info.num_examples
        name = builder.info.full_name
        identity = repr((name, os.path.abspath(builder.data_dir), split))
        super().__init__(
            f"{name}[{split}]", f"{title_of(builder.name)}-{title_of(split)}", identity
        )

    def state(self):
        files = sorted(map(str, self._info.filepaths))
        return [self.count, *([file, *file_state(file)] for file in files)]

    def columns(self):
        return _names(self._builder.info.features)

    def read(self, columns):
        def needed(example):
            return {column: value_of(example, column) for column in columns}

        examples = self._builder.as_dataset(
            split=self._split,
            shuffle_files=False,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )
        for number, record in enumerate(tfds.as_numpy(examples.map(needed)), 1):
            yield (
                number,
                {column: self._decoded(number, value) for column, value in record.items()},
            )

    def _decoded(self, number, value):
        if not isinstance(value, bytes):
            return value
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TextError(f"{self.place(number)}: is not valid UTF-8: {error}") from None


def load_builder(dataset, data_dir=None):
    """Returns the builder of a data set. Downloads and prepares the data unless `data_dir` has
    them.

    Args:
        dataset: `"NAME"`, `"NAME/CONFIG"`, or one of these with `":VERSION"` after it.
        data_dir: folder of TensorFlow Datasets; `None` for its default.

    Raises:
        MissingExtra: if `tensorflow_datasets` is not installed.
        TextError: if the data set cannot be loaded.
    """
    require("tensorflow_datasets")
    data_dir = None if data_dir is None else os.path.expanduser(data_dir)
    with loading(dataset, "data.dataset"):
        builder = tfds.builder(dataset, data_dir=data_dir)
        if not builder.is_prepared():
            print(f"{dataset}: not in {builder.data_dir}; preparing it …")
            builder.download_and_prepare()
    return builder


def load_split(builder, split, key):
    """Returns the `TfdsRecords` of a split of a builder. `key` is the config key of the split.

    Raises:
        TextError: if there is no such split.
    """
    with loading(f"{builder.info.full_name}[{split}]", key):
        return TfdsRecords(builder, split)


def _names(features):
    """The column names of features of TensorFlow Datasets; nested columns have dots."""
    names = []
    for name, feature in features.items():
        nested = _names(feature) if hasattr(feature, "items") else []
        names += [f"{name}.{inner}" for inner in nested] or [name]
    return names
