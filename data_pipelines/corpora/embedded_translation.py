"""The default translation corpus, rendered from CLDR's names and patterns and from numbers in words
(see `cldr_meanings`): no download, no file to supply.
"""

import dataclasses
import hashlib
import pathlib

from tfmoe.data_pipelines import installed_sources
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.data_pipelines.cldr_meanings import Meanings
from tfmoe.data_pipelines.cldr_renderer import Renderer
from tfmoe.data_pipelines.corpora import written
from tfmoe.data_pipelines.corpora.corpus import ParallelCorpus, below, not_a_seed, without_items
from tfmoe.data_pipelines.parallel_files import find_parallel
from tfmoe.data_pipelines.splits import Splits

LANGUAGES = ("en", "fr", "de", "es", "pt", "ja", "ko")
FORMAT = 1  # to be raised when the text of the same settings changes
DISTRIBUTIONS = ("babel", "num2words")
# Of all meanings, independent of language and seed: what one corpus tests on, no other one trains
# on.
EVALUATION_FRACTION = 0.05  # each for validation and test
MOST_WORDS = 40  # in a sentence
MOST_DRAWS = 50_000  # without a new sentence, before a part counts as exhausted


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedTranslation(ParallelCorpus):
    """The default parallel text, made of CLDR's names and patterns and of numbers in words.

    Its directory gets six files for each pair of languages, named as Moses does, such as
    `train.de-en.de` and `train.de-en.en`, with the languages in alphabetical order; line n of one
    is the translation of line n of the other. Both directions of a pair share the files. Lines are
    plain sentences, not tokenised. `corpus.json` has settings, versions and counts. Equal settings
    and versions give equal files.

    A hash of the meaning, which all languages share, decides whether it is for training, validation
    or test. In addition no sentence of a test part, in any pair of the corpus, occurs in a
    validation or training part, and none of a validation part in a training part. Within a part of
    a pair, no sentence occurs twice on either side.

    Args:
        pairs: such as [en-fr] or [en-fr, fr-en, en-ja], source first; languages are en, fr, de, es,
            pt, ja, ko. With several, a symbol for the target language begins each source.
        sentences, valid_sentences, test_sentences: of each pair of languages.
        seed: of the corpus; the training has its own.
    """

    generated = True

    pairs: list[str] = dataclasses.field(default_factory=lambda: ["en-fr"])
    sentences: int = 40_000
    valid_sentences: int = 1_000
    test_sentences: int = 1_000
    seed: int = 0

    def problems(self):
        yield from without_items(pairs=self.pairs)
        for index, pair in enumerate(self.pairs):
            source, _, target = str(pair).partition("-")
            known = source in LANGUAGES and target in LANGUAGES
            if not known or source == target or pair in self.pairs[:index]:
                yield (
                    f"pairs[{index}] must be two different languages of {', '.join(LANGUAGES)}, "
                    f"such as en-fr, each pair once; got {pair!r}"
                )
        yield from below(
            1,
            sentences=self.sentences,
            valid_sentences=self.valid_sentences,
            test_sentences=self.test_sentences,
        )
        yield from not_a_seed(self.seed)

    @property
    def language_pairs(self):
        return [tuple(pair.split("-")) for pair in self.pairs]

    def splits(self, directory):
        """Raises also `ValueError` if there are fewer different sentences than requested."""
        directory = pathlib.Path(directory)
        unordered = sorted({tuple(sorted(pair)) for pair in self.language_pairs})
        made_from = {
            "format": FORMAT,
            "pairs": [list(pair) for pair in unordered],
            "sentences": self._sentences,
            "seed": self.seed,
            "versions": installed_sources.versions(DISTRIBUTIONS),
        }
        files = [
            f"{_name(part, pair)}.{language}"
            for pair in unordered
            for part in written.PARTS
            for language in pair
        ]
        if not written.is_complete(directory, {"made_from": made_from}, files):
            written.begin(directory)
            counts = self._write(directory, unordered)
            written.finish(directory, {"made_from": made_from, "counts": counts})
        return Splits(
            *(
                [
                    find_parallel(directory / _name(part, pair), *pair)
                    for pair in self.language_pairs
                ]
                for part in written.PARTS
            )
        )

    @property
    def _sentences(self):
        """Number of sentences by part."""
        counts = (self.sentences, self.valid_sentences, self.test_sentences)
        return dict(zip(written.PARTS, counts, strict=True))

    def _write(self, directory, pairs):
        """Writes all files.

        Args:
            directory: a `pathlib.Path`.
            pairs: list of pairs of languages, each in alphabetical order.

        Returns:
            `{"de-en": {"train": {"sentences", "words": {"de", "en"}}, …}, …}`.
        """
        renderers = {language: Renderer(language) for pair in pairs for language in pair}
        counts = {}
        taken = {language: set() for language in renderers}  # what later parts must not have
        for part in reversed(written.PARTS):  # test, valid, train
            here = {language: set() for language in renderers}
            for pair in pairs:
                texts = dict(zip(pair, self._texts(part, pair, renderers, taken), strict=True))
                for language, lines in texts.items():
                    with atomic_write(directory / f"{_name(part, pair)}.{language}") as file:
                        file.writelines(line + "\n" for line in lines)
                    here[language].update(lines)
                counts.setdefault("-".join(pair), {})[part] = {
                    "sentences": self._sentences[part],
                    "words": {
                        language: sum(len(line.split()) for line in lines)
                        for language, lines in texts.items()
                    },
                }
            for language, lines in here.items():
                taken[language] |= lines
        return counts

    def _texts(self, part, pair, renderers, taken):
        """Draws the sentences of one part of one pair. Returns two lists of lines, one a
        language.
        """
        meanings = Meanings(f"{self.seed} {part} {' '.join(pair)}")
        first, second = {}, {}  # in order, each line once
        draws = 0
        while len(first) < self._sentences[part]:
            if draws == MOST_DRAWS:
                raise ValueError(
                    f"{_name(part, pair)}: {self._sentences[part]} sentences requested, but "
                    f"there are only about {len(first)} different ones"
                )
            draws += 1
            meaning = meanings.meaning()
            if _part(meaning) != part:
                continue
            one, other = (renderers[language].sentence(meaning) for language in pair)
            known = one in first or other in second
            known = known or one in taken[pair[0]] or other in taken[pair[1]]
            if not known and max(len(one.split()), len(other.split())) <= MOST_WORDS:
                first[one] = second[other] = None
                draws = 0
        return list(first), list(second)


def _name(part, pair):
    """`"train.de-en"`, what the names of a pair's two files begin with."""
    return f"{part}.{'-'.join(sorted(pair))}"


def _part(meaning):
    """Returns the part of a meaning, by its hash."""
    fraction = int.from_bytes(hashlib.sha256(repr(meaning).encode()).digest()[:8], "big") / 2**64
    if fraction < EVALUATION_FRACTION:
        return "valid"
    return "test" if fraction < 2 * EVALUATION_FRACTION else "train"
