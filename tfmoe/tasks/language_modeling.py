"""Training and evaluating a language model: from a config to text, batches and figures."""

import functools
import pathlib

import numpy as np

from tfmoe import data_pipelines
from tfmoe.data_pipelines import graph_tokenization
from tfmoe.inspection import count_lines, numbered_batches
from tfmoe.serving.exported import Exported
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.language_model import ServingLanguageModel
from tfmoe.tasks.corpora import corpus_directory
from tfmoe.tasks.task import Task
from tfmoe.tasks.vocabularies import build_vocabulary

MOST_LABELLED_FILES = 30
# How exported models make words of strings.
TOKENIZATIONS = {
    "words": graph_tokenization.split_words,
    "text": graph_tokenization.tokenize_text,
}


class LanguageTask(Task):
    """The text of a config, and what a model makes of it. Reads nothing before it is asked.

    Args:
        config: a `Config` of a language model.
    """

    EXPORT_OPTIONS = ("tokenization", "top")

    def __init__(self, config):
        super().__init__(config)
        self._surveyed = {}

    @functools.cached_property
    def surveys(self):
        """`{"train": data_pipelines.Survey, …}`: the whole text, read once and checked."""
        surveys = {part: self.survey(files) for part, files in vars(self.splits).items() if files}
        for line in self.corpus.check_surveys(surveys):
            print(line)
        return surveys

    def survey(self, files):
        """The `tfmoe.data_pipelines.Survey` of files, read once."""
        key = tuple(files)
        if key not in self._surveyed:
            self._surveyed[key] = data_pipelines.survey(files)
        return self._surveyed[key]

    def corpus_statistics(self):
        """Reads the whole text, generated text having been written if it was not there.

        Returns:
            What a run notes of it: `{"train": {"files", "sentences", "words"}, …}`.
        """
        return {
            part: {
                "files": getattr(self.splits, part),
                "sentences": found.sentences,
                "words": found.tokens,
            }
            for part, found in self.surveys.items()
        }

    def new_vocabulary(self):
        """The `tfmoe.data_pipelines.Vocabulary` of the training text, or of the config's file."""
        return build_vocabulary(self.config, self.surveys["train"].words)

    @staticmethod
    def vocabulary_file(run):
        """Where a `RunDirectory` keeps the vocabulary."""
        return run.vocabulary

    load_vocabulary = staticmethod(data_pipelines.Vocabulary.load)

    def report(self, vocabulary):
        """Lines on the text: sentences, words, and how many of them have no id."""
        for part, found in self.surveys.items():
            known = sum(count for word, count in found.words.items() if word in vocabulary)
            yield (
                f"{part:<6} {found.sentences:>11,} sentences {found.tokens:>13,} words "
                f"{1 - known / found.tokens:>7.2%} out of vocabulary"
            )
        yield f"vocabulary of {len(vocabulary):,}"

    def batches(self, files, vocabulary, *, training, **arguments):
        return build_batches(self.config, files, vocabulary, training=training, **arguments)

    def lengths(self, part, vocabulary):
        return self.surveys[part].lengths

    def batches_per_epoch(self, vocabulary):
        """Batches of one pass over the training text."""
        data = self.config.data
        return data_pipelines.batches_per_pass(
            self.lengths("train", vocabulary),
            batch_tokens=data.batch_tokens,
            max_length=data.max_length,
        )

    def numbered_batches(self, vocabulary, files, sentences=None):
        """Batches of text files that keep their line numbers, to inspect a model on: see
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
        """The files to evaluate on that paths or globs mean."""
        if direction is not None:
            raise ValueError("--direction is for translation models")
        return self.corpus.find_files(patterns, corpus_directory(self.config.data))

    def files_in_order(self, patterns, direction=None):
        """The files to inspect on, in the order of the patterns; without any, the test text."""
        if not patterns and direction is None:
            return self.splits.test
        groups = [[each] for each in patterns] or [[]]
        found = (file for some in groups for file in self.find_files(some, direction))
        return list(dict.fromkeys(found))

    @staticmethod
    def names_of(files):
        """The names of files, a list of strings."""
        return list(files)

    @staticmethod
    def numbered_files(files):
        """The paths whose lines `numbered_batches` numbers, in its order."""
        return files

    @staticmethod
    def own_labels(files):
        """Labels of all lines that the text has by itself, and what they are: the files' names, if
        there are 2 to 30 files; else `(None, None)`.
        """
        if not 1 < len(files) <= MOST_LABELLED_FILES:
            return None, None
        names = [pathlib.Path(file).name for file in files]
        if len(set(names)) < len(names):
            names = [str(file) for file in files]
        return np.repeat(names, [count_lines(file) for file in files]).tolist(), "file"

    def exported(self, vocabulary, model, half=False, tokenization=None, top=10):
        """What `tfmoe export` writes of a trained model.

        Args:
            vocabulary: its `Vocabulary`.
            model: the built model.
            half: whether large weights are bfloat16.
            tokenization: `"words"` or `"text"`; `None` for that of the corpus.
            top: words that `next_token` gives.

        Returns:
            `tfmoe.tasks.serving.Exported`.
        """
        if tokenization is None:
            tokenization = self.corpus.tokenization
        weights, table = FrozenWeights(model, half), vocabulary.lookup_table()
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
        words = [vocabulary.word(index) for index in range(3, min(100, len(vocabulary)))]
        plain = [word for word in words if word.isalnum()] or ["a"]
        example = f'sentences=["{" ".join(plain[:4])}"]'
        return Exported(functions, resources, "score", tokenization, example)

    def evaluate(self, model, vocabulary, files, callbacks, verbose=0):
        """Evaluates a model on text files.

        Args:
            model: a compiled `LanguageModel`.
            vocabulary: its `Vocabulary`.
            files: list of paths.
            callbacks, verbose: of `model.evaluate`.

        Returns:
            Dictionary: `perplexity`, `tokens` counted, `oov` of them, `loss` in nats per token, and
            per mixture its metrics of use (`moe_1_cv_load`, …).
        """
        found = self.survey(files)
        batches = self.batches(files, vocabulary, training=False, lengths=found.lengths)
        measured = evaluate_perplexity(model, batches, callbacks, verbose)
        known = sum(count for word, count in found.words.items() if word in vocabulary)
        first = ("perplexity", "tokens")
        return {
            **{key: measured.pop(key) for key in first},
            "oov": found.tokens - known,
            **measured,
        }

    @staticmethod
    def summary(result):
        """One line on what `evaluate` gave."""
        return (
            f"perplexity {result['perplexity']:.2f} ({result['loss']:.4f} nats) per token on "
            f"{result['tokens']:,} tokens (end of sentence counted), {result['oov']:,} of them out "
            "of vocabulary"
        )


def evaluate_perplexity(model, batches, callbacks, verbose):
    """Runs a model's `evaluate`.

    Returns:
        Dictionary: `perplexity`, `tokens` counted, `loss` in nats per token, and per mixture those
        metrics that were measured.
    """
    logs = model.evaluate(batches, return_dict=True, verbose=verbose, callbacks=callbacks)
    total, tokens = model.perplexity.total.numpy(), model.perplexity.count.numpy()
    use = {
        name: float(value)
        for name, value in logs.items()
        if name not in ("loss", "perplexity", "words") and value == value  # NaN: not measured
    }
    return {
        "perplexity": float(logs["perplexity"]),
        "tokens": int(tokens),
        "loss": float(total / tokens),
        **use,
    }


def build_batches(config, files, vocabulary, *, training, **arguments):
    """Batches of text files by the settings of a config.

    Args:
        config: a `Config`.
        files: one part of a `Splits`.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary`.
        training: shuffled and without end; otherwise in order and once.
        **arguments: further arguments of `tfmoe.data_pipelines.language_model_batches`
            (`start_batch`, `lengths`, shards).

    Returns:
        Dataset of `(inputs, targets)`, both int32 `[B, S]`.
    """
    return data_pipelines.language_model_batches(
        files,
        vocabulary,
        batch_tokens=config.data.batch_tokens,
        max_length=config.data.max_length,
        shuffle=training,
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.training.seed,
        **{"passes": None if training else 1, **arguments},
    )
