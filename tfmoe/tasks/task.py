"""Base class of tasks: the text of a config, and its batches."""

import functools

from tfmoe.config.data_schema import corpus_of
from tfmoe.data_pipelines.changes import stamps, unchanged
from tfmoe.tasks.corpora import find_splits


class Task:
    """Base class of tasks. Reads nothing before a method needs it.

    A subclass implements `names_of`, `batches`, `lengths`, `training_batches` and `shards`.

    Args:
        config: a `Config`.

    Attributes:
        EXPORT_OPTIONS: names of the options of `tfmoe export` for its models.
    """

    EXPORT_OPTIONS: tuple[str, ...] = ()

    def __init__(self, config):
        self.config = config
        self.corpus = corpus_of(config.data)

    @functools.cached_property
    def splits(self):
        """`tfmoe.data_pipelines.Splits` of the text."""
        splits = find_splits(self.config)
        self._stamps = stamps(
            path for part in vars(splits).values() for path in self.names_of(part)
        )
        return splits

    def unchanged_text(self):
        """A context that raises an error naming the file if a file of the text has changed since
        `splits` was read.
        """
        return unchanged(self._stamps)

    @staticmethod
    def names_of(files):
        """The paths of all files of a part of the text, a list of strings."""
        raise NotImplementedError("a task must implement names_of(files)")

    def batches(self, files, vocabulary, **arguments):
        """Builds batches of files with the settings of the config, to evaluate on: one pass in
        order.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement batches(files, …)")

    def lengths(self, part, vocabulary):
        """The lengths of the sentences of a part of the text, as `batches` takes them."""
        raise NotImplementedError(f"{type(self).__name__} must implement lengths(part, vocabulary)")

    def training_batches(self, vocabulary):
        """The `tfmoe.data_pipelines.TrainingBatches` of the training text. Prepares it if it is
        not yet.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement training_batches(…)")

    def shards(self, vocabulary):
        """The prepared text: `tfmoe.data_pipelines.prepared.shards.Shards` of all parts."""
        raise NotImplementedError(f"{type(self).__name__} must implement shards(vocabulary)")

    def check_prepared(self, vocabulary):
        """Reads the prepared text, and compares its checksums.

        Returns:
            The folders of the prepared text.

        Raises:
            TextError: if a file is damaged.
        """
        texts = [*self.shards(vocabulary), self.training_batches(vocabulary).rows]
        for text in texts:
            text.check()
        return [text.folder for text in texts]

    def validation_batches(self, vocabulary):
        """Batches of the validation text, or `None` if there is none."""
        if not self.splits.valid:
            return None
        return self.batches(
            self.splits.valid,
            vocabulary,
            lengths=self.lengths("valid", vocabulary),
        )
