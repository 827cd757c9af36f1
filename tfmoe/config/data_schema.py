"""The section `data`."""

from typing import Annotated, Literal

import pydantic
from pydantic import Field

from tfmoe.config.named import Section, one_of
from tfmoe.config.number_types import AtLeastOne, AtLeastZero, NotNegative, Positive, Seed

Globs = Annotated[
    list[str], pydantic.BeforeValidator(lambda value: [value] if isinstance(value, str) else value)
]


class Vocabulary(Section):
    """The words that have an id of their own.

    Keys:
        size: the most ids, `<S> </S> <UNK>` included; null for every word of the training text.
        min_count: words that occur less often in the training text are left out.
        file: a vocabulary to use instead of the training text's words; one word a line, `</S> <S>
            <UNK>` first.
    """

    size: Annotated[int, Field(ge=4)] | None = None
    min_count: AtLeastOne = 1
    file: str | None = None


class _LanguageData(Section):
    """What all data for language models have.

    Keys:
        vocabulary: see `Vocabulary`.
        batch_tokens: positions in a batch, padding included; of all devices together.
        max_length: the most steps in a row; longer sentences continue in the next row.
        shuffle_buffer: rows held for shuffling.
    """

    name: str
    vocabulary: Vocabulary = Vocabulary()
    batch_tokens: AtLeastOne = 8192
    max_length: AtLeastOne = 100
    shuffle_buffer: AtLeastOne = 100_000


class Text(_LanguageData):
    """Text files, one sentence a line, plain or gzip.

    Keys:
        train, valid, test: a path or glob, or a list of them; from the directory where the command
            is run.
    """

    name: Literal["text"] = "text"
    train: Annotated[Globs, Field(min_length=1)]
    valid: Globs = Field(default_factory=list)
    test: Globs = Field(default_factory=list)


class Lm1b(_LanguageData):
    """The 1 Billion Word benchmark.

    Keys:
        root: the directory that has `training-monolingual.tokenized.shuffled`.
    """

    name: Literal["lm1b"] = "lm1b"
    root: str


class EmbeddedWords(Section):
    """Words of each kind of embedded text, 0 for none; there may be fewer.

    Keys:
        english: prose of the installed packages' documentation.
        python: source code.
        languages: shared equally by the `languages`.
    """

    english: AtLeastZero = 1_000_000
    python: AtLeastZero = 1_500_000
    languages: AtLeastZero = 1_500_000


class EmbeddedText(_LanguageData):
    """The default corpus, made of text that is part of every installation.

    Keys:
        words: see `EmbeddedWords`.
        languages: CLDR locales.
        seed: of the corpus; the training has its own.
    """

    name: Literal["embedded_text"] = "embedded_text"
    words: EmbeddedWords = EmbeddedWords()
    languages: list[str] = Field(
        default_factory=lambda: ["de", "fr", "es", "ru", "it", "pl", "tr", "fi"]
    )
    seed: Seed = 0


class Grammars(_LanguageData):
    """A synthetic language of known entropy.

    Keys:
        grammars: number of latent grammars.
        symbols: words that all grammars share.
        successors: words that can follow each word in a grammar.
        length: symbols in a sentence.
        skew: how unlike the successors' probabilities are; 0 for equal.
        train_sentences, valid_sentences, test_sentences: numbers of sentences.
        seed: of the language; the training has its own.
    """

    name: Literal["grammars"] = "grammars"
    grammars: AtLeastOne = 256
    symbols: Annotated[int, Field(ge=2)] = 64
    successors: AtLeastOne = 4
    length: AtLeastOne = 29
    skew: NotNegative = 1.0
    train_sentences: AtLeastOne = 60_000
    valid_sentences: AtLeastOne = 1_000
    test_sentences: AtLeastOne = 2_000
    seed: Seed = 0


class Subwords(Section):
    """The subword vocabulary that all languages share, a SentencePiece model.

    Keys:
        size: the most ids, those of `</s> <s> <unk>` and of target languages included; null for
            that of `file`.
        character_coverage: share of the text's characters, by frequency, that get a piece, at least
            0.98.
        file: a model to use instead of one trained on the training text, `vocabulary.model` of
            another run.
    """

    size: Annotated[int, Field(ge=5)] | None = 32_000
    character_coverage: Annotated[float, Field(ge=0.98, le=1)] = 1.0
    file: str | None = None


class _ParallelData(Section):
    """What all data for translation models have.

    Keys:
        vocabulary: see `Subwords`.
        batch_words: positions in a batch, source and target together, padding included; of all
            devices together.
        max_length: pairs with more subwords than this on a side are not trained on.
        shuffle_buffer: pairs held for shuffling.
    """

    name: str
    vocabulary: Subwords = Subwords()
    batch_words: AtLeastOne = 16_000
    max_length: AtLeastOne = 100
    shuffle_buffer: AtLeastOne = 100_000


class Direction(Section):
    """One of several directions of translation.

    Keys:
        source_language, target_language, train, valid, test: as of `Parallel`.
        weight: how often training sees these pairs, as a multiple of their natural share.
    """

    source_language: str
    target_language: str
    train: Annotated[Globs, Field(min_length=1)]
    valid: Globs = Field(default_factory=list)
    test: Globs = Field(default_factory=list)
    weight: Positive = 1.0


class Parallel(_ParallelData):
    """Parallel text, one sentence a line, plain or gzip; line i of the one file belongs to line i
    of the other.

    Keys:
        train, valid, test: the files' common prefix, or a list or glob of them: `PREFIX.de` and
            `PREFIX.en`, or with `.gz` after it.
        source_language, target_language: the endings of the files, such as de and en.
        directions: instead of these keys, several directions for one multilingual model; see
            `Direction`. A symbol for the target language then begins each source.
    """

    name: Literal["parallel"] = "parallel"
    train: Globs = Field(default_factory=list)
    valid: Globs = Field(default_factory=list)
    test: Globs = Field(default_factory=list)
    source_language: str | None = None
    target_language: str | None = None
    directions: list[Direction] = Field(default_factory=list)


class Wmt14(_ParallelData):
    """The data of WMT'14 as its organisers publish them, unpacked. Pairs with an empty side, which
    they have, are left out.

    Keys:
        root: the directory that they are anywhere below.
        source_language, target_language: en and fr, or en and de, in either order.
    """

    name: Literal["wmt14"] = "wmt14"
    root: str
    source_language: str = "en"
    target_language: str


class EmbeddedTranslation(_ParallelData):
    """The default parallel text, made of CLDR's names and patterns and of numbers in words.

    Keys:
        pairs: such as [en-fr] or [en-fr, fr-en, en-ja], source first; languages are en, fr, de, es,
            pt, ja, ko. With several, a symbol for the target language begins each source.
        sentences, valid_sentences, test_sentences: of each pair of languages.
        seed: of the corpus; the training has its own.
    """

    name: Literal["embedded_translation"] = "embedded_translation"
    pairs: Annotated[list[str], Field(min_length=1)] = Field(default_factory=lambda: ["en-fr"])
    sentences: AtLeastOne = 40_000
    valid_sentences: AtLeastOne = 1_000
    test_sentences: AtLeastOne = 1_000
    seed: Seed = 0


LANGUAGE_MODEL_DATA = (Text, Lm1b, EmbeddedText, Grammars)
TRANSLATION_DATA = (Parallel, Wmt14, EmbeddedTranslation)
Data = one_of(*LANGUAGE_MODEL_DATA, *TRANSLATION_DATA)
