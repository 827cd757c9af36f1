"""The task of a translation model: text, batches, evaluation and export for a config."""

import functools
from typing import Any

import numpy as np

from tfmoe import data_pipelines
from tfmoe.config.schema import Config
from tfmoe.data_pipelines.prepared.surveys import parallel_content, prepared_survey
from tfmoe.distribute import is_first_worker, is_mixed, on_one_device
from tfmoe.extras import require
from tfmoe.inspection import count_lines, numbered_pairs
from tfmoe.models import TranslationModel
from tfmoe.serving.exported import Exported
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.portable_translation import PortableTranslationModel
from tfmoe.serving.translation import ServingTranslator
from tfmoe.serving.translator import Translator
from tfmoe.tasks.corpora import corpus_directory, prepared_directory
from tfmoe.tasks.language_modeling import evaluate_perplexity
from tfmoe.tasks.task import Task
from tfmoe.tasks.text_batches import build_parallel_batches, pair_training_batches
from tfmoe.tasks.translation_quality import bleu, multi_bleu
from tfmoe.tasks.vocabularies import build_subwords

PACKAGES = "babel", "num2words", "sacrebleu", "sentencepiece", "tensorflow_text"


class TranslationTask(Task):
    """The task of a translation model. Reads nothing before a method needs it.

    Args:
        config: a `Config` of a translation model.

    Raises:
        MissingExtra: if a package of `PACKAGES` is not installed.
    """

    EXPORT_OPTIONS = ("beam", "nbest")

    def __init__(self, config):
        require(*PACKAGES)
        super().__init__(config)
        self._texts = {}
        self._training_batches = {}

    @functools.cached_property
    def surveys(self):
        """`{"train": [data_pipelines.ParallelSurvey of each direction], …}`: statistics of the
        text, which is read and checked.
        """
        return {part: self.survey(files) for part, files in vars(self.splits).items() if files}

    def survey(self, files):
        """The `tfmoe.data_pipelines.ParallelSurvey` of each item of a list of `ParallelFiles`."""
        folder, empty = prepared_directory(), self.corpus.empty_sides
        return [prepared_survey(direction, folder, empty) for direction in files]

    def text(self, part, vocabulary):
        """The `tfmoe.data_pipelines.PreparedPairs` of a part of the text."""
        key = part, vocabulary.fingerprint
        if key not in self._texts:
            files = getattr(self.splits, part)
            text = data_pipelines.prepare_pairs(files, vocabulary, prepared_directory())
            self._texts[key] = text
        return self._texts[key]

    def corpus_statistics(self):
        """Reads the whole text, unless its content is known. Generates it first if needed.

        Returns:
            The statistics that a run stores: `{"train": {"files", "content", "sentences",
            "words"}, …}`, with the words of both sides.
        """
        return {
            part: {
                "files": [
                    path
                    for files in getattr(self.splits, part)
                    for path in files.source + files.target
                ],
                "content": parallel_content(getattr(self.splits, part), prepared_directory()),
                "sentences": sum(survey.pairs for survey in surveys),
                "words": sum(survey.source_words + survey.target_words for survey in surveys),
            }
            for part, surveys in self.surveys.items()
        }

    def new_vocabulary(self):
        """The `tfmoe.data_pipelines.Subwords` of the training text, or of the config's file."""
        return build_subwords(self.config, self.splits.train)

    @staticmethod
    def vocabulary_file(run):
        """The vocabulary file of a `RunDirectory`."""
        return run.subwords

    load_vocabulary = staticmethod(data_pipelines.Subwords.load)

    def report(self, vocabulary):
        """Yields lines on the text: pairs, words, and the number of pairs too long to train on."""
        for part, surveys in self.surveys.items():
            for files, survey in zip(getattr(self.splits, part), surveys, strict=True):
                empty = f", {survey.empty:,} more have an empty side" if survey.empty else ""
                yield (
                    f"{part:<6} {survey.pairs:>11,} pairs {survey.source_words:>12,} words "
                    f"{files.source_language} {survey.target_words:>12,} {files.target_language}"
                    f"{empty}"
                )
        max_length = self.config.data.max_length
        too_long = data_pipelines.count_longer(self.lengths("train", vocabulary), max_length)
        if too_long:
            yield f"{too_long:,} training pairs are longer than max_length={max_length}"
        yield f"vocabulary of {len(vocabulary):,} subwords"

    def batches(self, files, vocabulary, **arguments):
        return build_parallel_batches(self.config, files, vocabulary, training=False, **arguments)

    def lengths(self, part, vocabulary):
        return self.text(part, vocabulary).lengths

    def training_batches(self, vocabulary):
        key = vocabulary.fingerprint
        if key not in self._training_batches:
            text = self.text("train", vocabulary)
            self._training_batches[key] = pair_training_batches(self.config, text, vocabulary)
        return self._training_batches[key]

    def shards(self, vocabulary):
        all_shards = (
            shards
            for part, files in vars(self.splits).items()
            if files
            for sides in self.text(part, vocabulary).sides
            for shards in sides
        )
        return list({shards.folder: shards for shards in all_shards}.values())

    def batches_per_epoch(self, vocabulary):
        """Number of batches of one pass over the training text."""
        data = self.config.data
        return data_pipelines.parallel_batches_per_pass(
            self.lengths("train", vocabulary),
            batch_tokens=data.batch_tokens,
            max_length=data.max_length,
            tag_language=bool(vocabulary.languages),
        )

    def numbered_batches(self, vocabulary, files, sentences=None):
        """Batches of sentence pairs with line numbers, for inspection: see
        `tfmoe.inspection.numbered_pairs`.
        """
        return numbered_pairs(
            files,
            vocabulary,
            batch_tokens=self.config.data.batch_tokens,
            sentences=sentences,
            empty=self.corpus.empty_sides,
        )

    def count_pairs(self, files):
        """The number of sentence pairs of a `ParallelFiles`."""
        pairs = data_pipelines.sentence_pairs(files, empty=self.corpus.empty_sides)
        return sum(1 for _ in pairs)

    def find_files(self, patterns, direction=None):
        """The `ParallelFiles` of prefixes, to evaluate on.

        Args:
            patterns: prefixes of text files, or files of records; empty for the run's test text.
            direction: `"en-fr"`; `None` for all directions, or for the only one.
        """
        pairs = {"-".join(pair): pair for pair in self.corpus.language_pairs}
        if direction is None and patterns and len(pairs) > 1:
            raise ValueError(f"--direction must be given with --data: one of {', '.join(pairs)}")
        if direction is not None and direction not in pairs:
            raise ValueError(f"--direction must be one of {', '.join(pairs)}, got {direction!r}")
        if patterns:
            pair = pairs[direction or next(iter(pairs))]
            directory = corpus_directory(self.config.data)
            return [self.corpus.find_files(patterns, pair, directory)]
        return [
            parallel_files
            for name, group in data_pipelines.by_direction(self.splits.test).items()
            for parallel_files in group
            if direction in (None, name)
        ]

    def files_in_order(self, patterns, direction=None):
        """The `ParallelFiles` to inspect on; see `find_files`."""
        return self.find_files(patterns, direction)

    @staticmethod
    def names_of(files):
        """The paths of all files, a list of strings."""
        return [path for direction in files for path in (*direction.source, *direction.target)]

    def numbered_files(self, files):
        """The files whose lines `numbered_batches` numbers, in order: the sources.

        Raises:
            ValueError: if the text has pairs with an empty side. They are skipped, so the line
                numbers would not match.
        """
        sources = [path for direction in files for path in direction.source]
        if sum(map(self.count_pairs, files)) != sum(map(count_lines, sources)):
            raise ValueError(
                "--labels: the text has pairs with an empty side, which are skipped, so the lines "
                "of the labels do not match; remove these pairs from the text and the labels"
            )
        return sources

    def default_labels(self, files):
        """The labels of all pairs if no label files are given, and the kind of label: the
        directions if the text has several, `(None, None)` otherwise.
        """
        names = [f"{pair.source_language}-{pair.target_language}" for pair in files]
        if len(set(names)) < 2:
            return None, None
        return np.repeat(names, [self.count_pairs(pair) for pair in files]).tolist(), "direction"

    def exported(self, vocabulary, model, stored="float32", beam=None, nbest=1):
        """The serving functions and resources of a trained model, for `tfmoe export`.

        Args:
            vocabulary: its `Subwords`.
            model: the built model.
            stored: the type of stored weights, see `FrozenWeights`.
            beam: number of hypotheses kept per step; `None` for the config's beam size, or for
                `nbest` if that is larger.
            nbest: number of translations per sentence.

        Returns:
            `tfmoe.serving.exported.Exported`.
        """
        beam = beam or max(nbest, self.config.model.decoding.beam_size)
        translator = build_translator(
            self.config, vocabulary, model, beam_size=beam, num_best=nbest
        )
        weights = FrozenWeights(model, stored)
        pieces = [vocabulary.piece(index) for index in range(len(vocabulary))]
        functions = ServingTranslator(translator, weights, pieces)
        resources = {"weights": weights.variables, **functions.resources}
        example = 'sentences=["Monday, May 4, 2020"]'
        if vocabulary.languages:
            example += f';language=["{vocabulary.languages[0]}"]'
        return Exported(functions, resources, "translate", "subwords", example)

    def portable(self, model):
        """The functions on ids of a trained model, a `PortableTranslationModel`."""
        return PortableTranslationModel(model)

    def evaluate(self, model, vocabulary, files, callbacks, verbose=0):
        """Evaluates a model on parallel text: perplexity, and translations by beam search.

        Args:
            model: a compiled `TranslationModel`.
            vocabulary: its `Subwords`.
            files: list of `ParallelFiles`.
            callbacks, verbose: arguments of `model.evaluate`.

        Returns:
            Dictionary: `bleu`, `signature`, `chrf`, `chrf_signature`, `multi_bleu` (the paper's),
            `sentences`, `perplexity` per subword, number of `tokens` predicted, `loss` in nats per
            token, and the load metrics of each mixture. With several directions `bleu`, `chrf` and
            `multi_bleu` are means over the directions, and `directions` has their figures. Only the
            first worker of a cluster translates; the other workers return the rest.
        """
        batches = self.batches(files, vocabulary)
        metrics = evaluate_perplexity(model, batches, callbacks, verbose)
        strategy = model.distribute_strategy
        if is_mixed(strategy):
            model = on_one_device(model)
            if not is_first_worker(strategy):
                return metrics
        translator = build_translator(self.config, vocabulary, model)
        directions = {}
        for name, group in data_pipelines.by_direction(files).items():
            pairs = [
                pair
                for parallel_files in group
                for pair in data_pipelines.sentence_pairs(
                    parallel_files, empty=self.corpus.empty_sides
                )
            ]
            sources, references = map(list, zip(*pairs, strict=True))
            language = group[0].target_language
            translations = translator.translate_all(sources, language, label=name)
            directions[name] = {
                **bleu(translations, references, language),
                "multi_bleu": multi_bleu(translations, references),
            }
        quality = dict(next(iter(directions.values())))
        if len(directions) > 1:
            for key in ("bleu", "chrf", "multi_bleu"):
                values = [scores[key] for scores in directions.values()]
                quality[key] = sum(values) / len(values)
            quality["sentences"] = sum(scores["sentences"] for scores in directions.values())
            signatures = sorted({scores["signature"] for scores in directions.values()})
            quality["signature"] = " and ".join(signatures)
            quality["directions"] = directions
        return {**quality, **metrics}

    @staticmethod
    def summary(result):
        """Text on the result of `evaluate`."""
        lines = [
            f"{name}: BLEU {scores['bleu']:.2f} ({scores['signature']}), chrF {scores['chrf']:.2f}"
            for name, scores in result.get("directions", {}).items()
        ]
        mean = "mean " if lines else ""
        lines.append(
            f"{mean}BLEU {result['bleu']:.2f} ({result['signature']}), {mean}chrF "
            f"{result['chrf']:.2f}, perplexity {result['perplexity']:.3f} per subword, on "
            f"{result['sentences']:,} sentences"
        )
        return "\n".join(lines)


def build_translator(
    config: Config, subwords: data_pipelines.Subwords, model: TranslationModel, **changes: Any
) -> Translator:
    """Builds a translator with the settings of a config.

    Args:
        config: a `Config` of a translation model.
        subwords: its `Subwords`.
        model: the built model.
        **changes: values that override those of `model.decoding`.

    Returns:
        `tfmoe.serving.translator.Translator`.
    """
    languages = {language: subwords.language_id(language) for language in subwords.languages}
    decoding = {**config.model.decoding.model_dump(), **changes}
    return Translator(model, subwords.tokenizer(), languages, **decoding)
