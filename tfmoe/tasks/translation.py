"""Training and evaluating a translation model: from a config to text, batches and figures."""

import functools

import numpy as np

from tfmoe import data_pipelines
from tfmoe.distribute import is_first_worker, is_mixed, on_one_device
from tfmoe.extras import require
from tfmoe.inspection import count_lines, numbered_pairs
from tfmoe.serving.exported import Exported
from tfmoe.serving.frozen_weights import FrozenWeights
from tfmoe.serving.translation import ServingTranslator
from tfmoe.serving.translator import Translator
from tfmoe.tasks.corpora import corpus_directory
from tfmoe.tasks.language_modeling import evaluate_perplexity
from tfmoe.tasks.task import Task
from tfmoe.tasks.translation_quality import bleu, multi_bleu
from tfmoe.tasks.vocabularies import build_subwords

PACKAGES = "babel", "num2words", "sacrebleu", "sentencepiece", "tensorflow_text"


class TranslationTask(Task):
    """The parallel text of a config, and what a model makes of it. Reads nothing before it is
    asked.

    Args:
        config: a `Config` of a translation model.

    Raises:
        MissingExtra: if a package of `PACKAGES` is not installed.
    """

    EXPORT_OPTIONS = ("beam", "nbest")

    def __init__(self, config):
        require(*PACKAGES)
        super().__init__(config)
        self._known_lengths = {}

    @functools.cached_property
    def surveys(self):
        """`{"train": [data_pipelines.ParallelSurvey of each direction], …}`: the whole text, read
        and checked.
        """
        return {part: self.survey(files) for part, files in vars(self.splits).items() if files}

    def survey(self, files):
        """A `tfmoe.data_pipelines.ParallelSurvey` of each `ParallelFiles` of a list."""
        empty = self.corpus.empty_sides
        return [data_pipelines.survey_parallel(each, empty=empty) for each in files]

    def corpus_statistics(self):
        """Reads the whole text, generated text having been written if it was not there.

        Returns:
            What a run notes of it: `{"train": {"files", "sentences", "words"}, …}`, words of both
            sides.
        """
        return {
            part: {
                "files": [
                    path
                    for each in getattr(self.splits, part)
                    for path in each.source + each.target
                ],
                "sentences": sum(found.pairs for found in surveys),
                "words": sum(found.source_words + found.target_words for found in surveys),
            }
            for part, surveys in self.surveys.items()
        }

    def new_vocabulary(self):
        """The `tfmoe.data_pipelines.Subwords` of the training text, or of the config's file."""
        return build_subwords(self.config, self.splits.train)

    @staticmethod
    def vocabulary_file(run):
        """Where a `RunDirectory` keeps the vocabulary."""
        return run.subwords

    load_vocabulary = staticmethod(data_pipelines.Subwords.load)

    def report(self, vocabulary):
        """Lines on the text, and how much of it is too long to train on."""
        for part, surveys in self.surveys.items():
            for files, found in zip(getattr(self.splits, part), surveys, strict=True):
                empty = f", {found.empty:,} more have an empty side" if found.empty else ""
                yield (
                    f"{part:<6} {found.pairs:>11,} pairs {found.source_words:>12,} words "
                    f"{files.source_language} {found.target_words:>12,} {files.target_language}"
                    f"{empty}"
                )
        longest = self.config.data.max_length
        left_out = data_pipelines.count_longer(self.lengths("train", vocabulary), longest)
        if left_out:
            yield f"{left_out:,} pairs for training are longer than max_length={longest}"
        yield f"vocabulary of {len(vocabulary):,} subwords"

    def batches(self, files, vocabulary, *, training, **arguments):
        return build_parallel_batches(
            self.config, files, vocabulary, training=training, **arguments
        )

    def lengths(self, part, vocabulary):
        if part not in self._known_lengths:
            files = getattr(self.splits, part)
            self._known_lengths[part] = data_pipelines.pair_lengths(files, vocabulary)
        return self._known_lengths[part]

    def batches_per_epoch(self, vocabulary):
        """Batches of one pass over the training text."""
        data = self.config.data
        return data_pipelines.parallel_batches_per_pass(
            self.lengths("train", vocabulary),
            batch_tokens=data.batch_tokens,
            max_length=data.max_length,
            tag_language=bool(vocabulary.languages),
        )

    def numbered_batches(self, vocabulary, files, sentences=None):
        """Batches of pairs that keep their line numbers, to inspect a model on: see
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
        """How many pairs of sentences a `ParallelFiles` has."""
        pairs = data_pipelines.sentence_pairs(files, empty=self.corpus.empty_sides)
        return sum(1 for _ in pairs)

    def find_files(self, patterns, direction=None):
        """The `ParallelFiles` to evaluate on that prefixes mean.

        Args:
            patterns: prefixes of text files, or files of records; none for the run's own test text.
            direction: `"en-fr"`, or `None` if the model has one only.
        """
        known = {"-".join(pair): pair for pair in self.corpus.language_pairs}
        if direction is None and patterns and len(known) > 1:
            raise ValueError(
                f"--direction must say what to translate --data from and to: {', '.join(known)}"
            )
        if direction is not None and direction not in known:
            raise ValueError(f"--direction must be one of {', '.join(known)}, got {direction!r}")
        if patterns:
            pair = known[direction or next(iter(known))]
            directory = corpus_directory(self.config.data)
            return [self.corpus.find_files(patterns, pair, directory)]
        return [
            each
            for name, some in data_pipelines.by_direction(self.splits.test).items()
            for each in some
            if direction in (None, name)
        ]

    def files_in_order(self, patterns, direction=None):
        """The `ParallelFiles` to inspect on; see `find_files`."""
        return self.find_files(patterns, direction)

    @staticmethod
    def names_of(files):
        """The names of all files, a list of strings."""
        return [path for each in files for path in (*each.source, *each.target)]

    def numbered_files(self, files):
        """The paths whose lines `numbered_batches` numbers, in its order: the sources.

        Raises:
            ValueError: if pairs with an empty side are left out, so that lines and numbers differ.
        """
        sources = [path for each in files for path in each.source]
        if sum(map(self.count_pairs, files)) != sum(map(count_lines, sources)):
            raise ValueError(
                "--labels: the text has pairs with an empty side, which are left out, so that the "
                "lines of labels are of other pairs; remove these pairs from text and labels"
            )
        return sources

    def own_labels(self, files):
        """Labels of all pairs that the text has by itself, and what they are: the direction, of a
        text of several; else `(None, None)`.
        """
        names = [f"{each.source_language}-{each.target_language}" for each in files]
        if len(set(names)) < 2:
            return None, None
        return np.repeat(names, [self.count_pairs(each) for each in files]).tolist(), "direction"

    def exported(self, vocabulary, model, half=False, beam=None, nbest=1):
        """What `tfmoe export` writes of a trained model.

        Args:
            vocabulary: its `Subwords`.
            model: the built model.
            half: whether large weights are bfloat16.
            beam: hypotheses that are followed; `None` for the config's, at least `nbest`.
            nbest: translations of each sentence.

        Returns:
            `tfmoe.tasks.serving.Exported`.
        """
        beam = beam or max(nbest, self.config.model.decoding.beam_size)
        translator = build_translator(
            self.config, vocabulary, model, beam_size=beam, num_best=nbest
        )
        weights = FrozenWeights(model, half)
        pieces = [vocabulary.piece(index) for index in range(len(vocabulary))]
        functions = ServingTranslator(translator, weights, pieces)
        resources = {"weights": weights.variables, **functions.resources}
        example = 'sentences=["Monday, May 4, 2020"]'
        if vocabulary.languages:
            example += f';language=["{vocabulary.languages[0]}"]'
        return Exported(functions, resources, "translate", "subwords", example)

    def evaluate(self, model, vocabulary, files, callbacks, verbose=0):
        """Evaluates a model on parallel text: perplexity, and translations by beam search.

        Args:
            model: a compiled `TranslationModel`.
            vocabulary: its `Subwords`.
            files: list of `ParallelFiles`.
            callbacks, verbose: of `model.evaluate`.

        Returns:
            Dictionary: `bleu`, `signature`, `chrf`, `chrf_signature`, `multi_bleu` (the paper's),
            `sentences`, `perplexity` per subword, `tokens` counted, `loss` in nats per token, and
            per mixture its metrics of use. With several directions `bleu`, `chrf` and `multi_bleu`
            are means over them, and `directions` has the figures of each. Only the first worker of
            a cluster translates; the others return what is left.
        """
        batches = self.batches(files, vocabulary, training=False)
        measured = evaluate_perplexity(model, batches, callbacks, verbose)
        strategy = model.distribute_strategy
        if is_mixed(strategy):
            model = on_one_device(model)
            if not is_first_worker(strategy):
                return measured
        translator = build_translator(self.config, vocabulary, model)
        directions = {}
        for name, some in data_pipelines.by_direction(files).items():
            pairs = [
                pair
                for each in some
                for pair in data_pipelines.sentence_pairs(each, empty=self.corpus.empty_sides)
            ]
            sources, references = map(list, zip(*pairs, strict=True))
            language = some[0].target_language
            found = translator.translate_all(sources, language, label=name)
            directions[name] = {
                **bleu(found, references, language),
                "multi_bleu": multi_bleu(found, references),
            }
        quality = dict(next(iter(directions.values())))
        if len(directions) > 1:
            for key in ("bleu", "chrf", "multi_bleu"):
                values = [each[key] for each in directions.values()]
                quality[key] = sum(values) / len(values)
            quality["sentences"] = sum(each["sentences"] for each in directions.values())
            signatures = sorted({each["signature"] for each in directions.values()})
            quality["signature"] = " and ".join(signatures)
            quality["directions"] = directions
        return {**quality, **measured}

    @staticmethod
    def summary(result):
        """Lines on what `evaluate` gave."""
        lines = [
            f"{name}: BLEU {each['bleu']:.2f} ({each['signature']}), chrF {each['chrf']:.2f}"
            for name, each in result.get("directions", {}).items()
        ]
        mean = "mean " if lines else ""
        lines.append(
            f"{mean}BLEU {result['bleu']:.2f} ({result['signature']}), {mean}chrF "
            f"{result['chrf']:.2f}, perplexity {result['perplexity']:.3f} per subword, on "
            f"{result['sentences']:,} sentences"
        )
        return "\n".join(lines)


def build_parallel_batches(config, files, subwords, *, training, **arguments):
    """Batches of parallel text by the settings of a config.

    Args:
        config: a `Config` of a translation model.
        files: list of `tfmoe.data_pipelines.ParallelFiles`.
        subwords: a `tfmoe.data_pipelines.Subwords`.
        training: shuffled and without end; otherwise in order and once.
        **arguments: further arguments of `tfmoe.data_pipelines.parallel_batches` (`start_batch`,
            `lengths`).

    Returns:
        Dataset of `((source, target), targets)`, int32 `[B, S]`, `[B, T]` and `[B, T]`.
    """
    return data_pipelines.parallel_batches(
        files,
        subwords,
        batch_tokens=config.data.batch_tokens,
        max_length=config.data.max_length,
        shuffle=training,
        shuffle_buffer=config.data.shuffle_buffer,
        seed=config.training.seed,
        tag_language=bool(subwords.languages),
        **{"passes": None if training else 1, **arguments},
    )


def build_translator(config, subwords, model, **changes):
    """A `tfmoe.serving.translator.Translator` by the settings of a config.

    Args:
        config: a `Config` of a translation model.
        subwords: its `Subwords`.
        model: the built model.
        **changes: other values for its `model.decoding`.
    """
    languages = {language: subwords.language_id(language) for language in subwords.languages}
    decoding = {**config.model.decoding.model_dump(), **changes}
    return Translator(model, subwords.tokenizer(), languages, **decoding)
