"""The task of a language model: text, batches, evaluation and export for a config."""

import functools
import pathlib

import numpy as np

from tfmoe import data_pipelines
from tfmoe.data_pipelines import graph_tokenization
from tfmoe.inspection import count_lines, numbered_batches
from tfmoe.serving.exported import Exported
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.language_model import ServingLanguageModel
from tfmoe.serving.portable_language_model import PortableLanguageModel
from tfmoe.tasks.corpora import corpus_directory, prepared_directory
from tfmoe.tasks.task import Task
from tfmoe.tasks.text_batches import build_batches, sentence_training_batches
from tfmoe.tasks.vocabularies import build_vocabulary

MAX_LABELLED_FILES = 30
# How an exported model splits strings into words.
TOKENIZATIONS = {
    "words": graph_tokenization.split_words,
    "text": graph_tokenization.tokenize_text,
}


class LanguageTask(Task):
    """The task of a language model. Reads nothing before a method needs it.

    Args:
        config: a `Config` of a language model.
    """

    EXPORT_OPTIONS = ("tokenization", "top")

    def __init__(self, config):
        super().__init__(config)
        self._surveyed = {}
        self._training_batches = {}

    @functools.cached_property
    def texts(self):
        """`{"train": data_pipelines.PreparedText, …}`: the text, which is read once and checked."""
        return {
            part: data_pipelines.prepare_text(files, prepared_directory())
            for part, files in vars(self.splits).items()
            if files
        }

    @functools.cached_property
    def surveys(self):
        """`{"train": data_pipelines.Survey, …}`: statistics of the text."""
        surveys = {part: text.survey for part, text in self.texts.items()}
        for line in self.corpus.check_surveys(surveys):
            print(line)
        for part, survey in surveys.items():
            self._surveyed[tuple(getattr(self.splits, part))] = survey
        return surveys

    def survey(self, files):
        """The `tfmoe.data_pipelines.Survey` of files, read once."""
        key = tuple(files)
        if key not in self._surveyed:
            self._surveyed[key] = data_pipelines.survey(files)
        return self._surveyed[key]

    def corpus_statistics(self):
        """Prepares the text, unless it is. Generates it first if needed.

        Returns:
            The statistics that a run stores: `{"train": {"files", "content", "sentences",
            "words"}, …}`.
        """
        return {
            part: {
                "files": getattr(self.splits, part),
                "content": self.texts[part].content,
                "sentences": survey.sentences,
                "words": survey.tokens,
            }
            for part, survey in self.surveys.items()
        }

    def new_vocabulary(self):
        """The `tfmoe.data_pipelines.Vocabulary` of the training text, or of the config's file."""
        return build_vocabulary(self.config, self.surveys["train"].words)

    @staticmethod
    def vocabulary_file(run):
        """The vocabulary file of a `RunDirectory`."""
        return run.vocabulary

    load_vocabulary = staticmethod(data_pipelines.Vocabulary.load)

    def report(self, vocabulary):
        """Yields lines on the text: sentences, words, and the fraction out of the vocabulary."""
        for part, survey in self.surveys.items():
            known = sum(count for word, count in survey.words.items() if word in vocabulary)
            yield (
                f"{part:<6} {survey.sentences:>11,} sentences {survey.tokens:>13,} words "
                f"{1 - known / survey.tokens:>7.2%} out of vocabulary"
            )
        yield f"vocabulary of {len(vocabulary):,}"

    def batches(self, files, vocabulary, **arguments):
        return build_batches(self.config, files, vocabulary, training=False, **arguments)

    def lengths(self, part, vocabulary):
        return self.texts[part].lengths

    def training_batches(self, vocabulary):
        key = vocabulary.fingerprint
        if key not in self._training_batches:
            batches = sentence_training_batches(self.config, self.texts["train"], vocabulary)
            self._training_batches[key] = batches
        return self._training_batches[key]

    def shards(self, vocabulary):
        return [text.shards for text in self.texts.values()]

    def batches_per_epoch(self, vocabulary):
        """Number of batches of one pass over the training text."""
        data = self.config.data
        return data_pipelines.batches_per_pass(
            self.lengths("train", vocabulary),
            batch_tokens=data.batch_tokens,
            max_length=data.max_length,
        )

    def numbered_batches(self, vocabulary, files, sentences=None):
        """Batches of text files with line numbers, for inspection: see
        `tfmoe.inspection.numbered_batches`.
        """
        data = self.config.data
        return numbered_batches(
            files,
            vocabulary,
            batch_tokens=data.batch_tokens,
            max_length=data.max_length,
            sentences=sentences,
        )

    def find_files(self, patterns, direction=None):
        """The files of paths or globs, to evaluate on."""
        if direction is not None:
            raise ValueError("--direction is for translation models")
        return self.corpus.find_files(patterns, corpus_directory(self.config.data))

    def files_in_order(self, patterns, direction=None):
        """The files to inspect on, in the order of the patterns; the test text without patterns."""
        if not patterns and direction is None:
            return self.splits.test
        groups = [[pattern] for pattern in patterns] or [[]]
        files = (file for group in groups for file in self.find_files(group, direction))
        return list(dict.fromkeys(files))

    @staticmethod
    def names_of(files):
        """The names of files, a list of strings."""
        return list(files)

    @staticmethod
    def numbered_files(files):
        """The files whose lines `numbered_batches` numbers, in order."""
        return files

    @staticmethod
    def default_labels(files):
        """The labels of all lines if no label files are given, and the kind of label: the files'
        names if there are 2 to 30 files, `(None, None)` otherwise.
        """
        if not 1 < len(files) <= MAX_LABELLED_FILES:
            return None, None
        names = [pathlib.Path(file).name for file in files]
        if len(set(names)) < len(names):
            names = [str(file) for file in files]
        return np.repeat(names, [count_lines(file) for file in files]).tolist(), "file"

    def exported(self, vocabulary, model, stored="float32", tokenization=None, top=10):
        """The serving functions and resources of a trained model, for `tfmoe export`.

        Args:
            vocabulary: its `Vocabulary`.
            model: the built model.
            stored: the type of stored weights, see `FrozenWeights`.
            tokenization: `"words"` or `"text"`; `None` for the corpus' own.
            top: number of words that `next_token` returns.

        Returns:
            `tfmoe.serving.exported.Exported`.
        """
        if tokenization is None:
            tokenization = self.corpus.tokenization
        weights, table = FrozenWeights(model, stored), vocabulary.lookup_table()
        functions = ServingLanguageModel(
            model,
            weights,
            TOKENIZATIONS[tokenization],
            table,
            vocabulary.decode(range(len(vocabulary))),
            max_length=self.config.data.max_length,
            top=top,
        )
        resources = {"weights": weights.variables, "table": table}
        frequent = [vocabulary.word(index) for index in range(3, min(100, len(vocabulary)))]
        words = [word for word in frequent if word.isalnum()] or ["a"]
        example = f'sentences=["{" ".join(words[:4])}"]'
        return Exported(functions, resources, "score", tokenization, example)

    def portable(self, model):
        """The functions on ids of a trained model, a `PortableLanguageModel`."""
        return PortableLanguageModel(model, self.config.data.max_length)

    def evaluate(self, model, vocabulary, files, callbacks, verbose=0):
        """Evaluates a model on text files.

        Args:
            model: a compiled `LanguageModel`.
            vocabulary: its `Vocabulary`.
            files: list of paths.
            callbacks, verbose: arguments of `model.evaluate`.

        Returns:
            Dictionary: `perplexity`, number of `tokens` predicted, `oov` (tokens out of the
            vocabulary), `loss` in nats per token, and the load metrics of each mixture
            (`moe_1_cv_load`, …).
        """
        survey = self.survey(files)
        batches = self.batches(files, vocabulary, lengths=survey.lengths)
        metrics = evaluate_perplexity(model, batches, callbacks, verbose)
        known = sum(count for word, count in survey.words.items() if word in vocabulary)
        first = ("perplexity", "tokens")
        return {
            **{key: metrics.pop(key) for key in first},
            "oov": survey.tokens - known,
            **metrics,
        }

    @staticmethod
    def summary(result):
        """A line of text on the result of `evaluate`."""
        return (
            f"perplexity {result['perplexity']:.2f} ({result['loss']:.4f} nats) per token on "
            f"{result['tokens']:,} tokens (ends of sentences included), {result['oov']:,} of them "
            "out of vocabulary"
        )


def evaluate_perplexity(model, batches, callbacks, verbose):
    """Runs a model's `evaluate`.

    Returns:
        Dictionary: `perplexity`, number of `tokens` predicted, `loss` in nats per token, and the
        load metrics of each mixture.
    """
    logs = model.evaluate(batches, return_dict=True, verbose=verbose, callbacks=callbacks)
    total, tokens = model.perplexity.total.numpy(), model.perplexity.count.numpy()
    load_metrics = {
        name: float(value)
        for name, value in logs.items()
        if name not in ("loss", "perplexity", "words") and value == value  # NaN: not measured
    }
    return {
        "perplexity": float(logs["perplexity"]),
        "tokens": int(tokens),
        "loss": float(total / tokens),
        **load_metrics,
    }
