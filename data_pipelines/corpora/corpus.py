"""What all corpora have."""

import abc
import dataclasses
from typing import ClassVar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings that check themselves.

    A subclass is a frozen dataclass with keyword-only fields. A field is a number, text or boolean,
    a list of text, or other `Settings` or a list of them.

    Raises:
        ValueError: if a setting is out of its range: a line for each, which begins with the
            setting's name.
    """

    def __post_init__(self):
        problems = list(self.problems())
        if problems:
            raise ValueError("\n".join(problems))

    def problems(self):
        """Yields what is wrong with the settings, each beginning with the setting's name, such as
        `"pairs[1] must be …"`.
        """
        return iter(())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus(Settings, abc.ABC):
    """A corpus: where its text is, or how it is made. Its fields are its settings.

    A corpus that is made anew writes the same text for the same settings.

    Attributes:
        kind: `"language"` for sentences, `"parallel"` for sentences and their translations.
        tokenization: how its text became tokens: `"text"` if this project split running text into
            words, `"words"` if the words were separated by white space already, `"subwords"` if the
            text is split by a subword vocabulary.
    """

    kind: ClassVar[str]
    tokenization: ClassVar[str]

    @abc.abstractmethod
    def splits(self, directory):
        """Finds the files, or writes generated text, unless it is there already.

        Args:
            directory: where generated text is written; of this corpus alone. Made if missing.

        Returns:
            A `Splits`.

        Raises:
            TextError: if files are missing.
        """


class LanguageCorpus(Corpus):
    """A corpus of sentences: its `Splits` are of paths."""

    kind = "language"
    tokenization = "words"

    def check_surveys(self, surveys):
        """Checks what a reading of the whole text found.

        Args:
            surveys: `{"train": Survey, …}`, of the parts that are not empty.

        Returns:
            What there is to tell of it: list of lines.

        Raises:
            TextError: if the text is not what this corpus is known to be.
        """
        return []


class ParallelCorpus(Corpus):
    """A corpus of sentences and their translations: its `Splits` are of `ParallelFiles`, one for
    each direction of translation.

    Attributes:
        empty_sides: what to do with a pair of which a side is blank: `"error"`, or `"skip"` for
            text that is published with such pairs.
    """

    kind = "parallel"
    tokenization = "subwords"
    empty_sides: ClassVar[str] = "error"

    @property
    @abc.abstractmethod
    def language_pairs(self):
        """The directions of translation, each once: `[("en", "fr"), …]`, source first."""

    @property
    def target_languages(self):
        """The languages that a source must ask for with a symbol: sorted, none for one
        direction.
        """
        pairs = self.language_pairs
        return sorted({target for _, target in pairs}) if len(pairs) > 1 else []


def below(least, **settings):
    """Yields a problem for each setting that is less than `least`."""
    for name, value in settings.items():
        if value < least:
            yield f"{name} must be at least {least}, got {value}"


def not_a_seed(seed):
    """Yields a problem if `seed` is out of the range of seeds."""
    if not 0 <= seed < 2**31:
        yield f"seed must be at least 0 and below {2**31}, got {seed}"


def without_items(**settings):
    """Yields a problem for each list that is empty."""
    for name, value in settings.items():
        if not value:
            yield f"{name} must be a list of at least one item, got {value!r}"
