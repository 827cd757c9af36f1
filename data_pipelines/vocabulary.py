"""The words of a language model and their ids."""

import functools
import hashlib
import os
from collections.abc import Iterable, Mapping

import tensorflow as tf

from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.data_pipelines.reading import TextError, read_bytes

END, START, UNKNOWN = 0, 1, 2
SPECIAL_WORDS = ("</S>", "<S>", "<UNK>")


class Vocabulary:
    """Words with ids by falling frequency, after three special ones.

    Id 0 is `</S>` (`END`), 1 is `<S>` (`START`), 2 is `<UNK>` (`UNKNOWN`), then the words. The
    order matters: the sampled softmax draws its samples log-uniformly over ids, which supposes that
    frequent words come first.

    Zero is padding too. In a language model the inputs of a sentence are `<S> w1 … wn` and the
    targets `w1 … wn </S>`, so `</S>` is never an input: padded with 0, `inputs != 0` is the mask of
    the positions that count, which is what `Embedding(mask_zero=True)` computes. The targets are
    padded with 0 as well. For this to hold, a special word in a text does not get the special
    id: it is encoded as `<UNK>`.

    Args:
        words: sequence of strings, the special words included, in the order of their ids.

    Raises:
        ValueError: if the special words are not the first three, or are all; if a word occurs
            twice, is empty or has white space in it.
    """

    def __init__(self, words: Iterable[str]):
        self._words = list(words)
        if tuple(self._words[:3]) != SPECIAL_WORDS:
            raise ValueError(
                f"a vocabulary must begin with the words {', '.join(SPECIAL_WORDS)} (ids 0, 1, 2);"
                f" this one begins with {', '.join(map(repr, self._words[:3])) or 'nothing'}"
            )
        if len(self._words) == len(SPECIAL_WORDS):
            raise ValueError("a vocabulary must have at least one word besides the special ones")
        self._ids: dict[str, int] = {}
        for index, word in enumerate(self._words):
            if not word or word.encode("utf-8").split() != [word.encode("utf-8")]:
                raise ValueError(
                    f"word {index} of the vocabulary, {word!r}, must be without white space and"
                    " not empty"
                )
            if self._ids.setdefault(word, index) != index:
                raise ValueError(
                    f"the word {word!r} is in the vocabulary twice, as {self._ids[word]} and as"
                    f" {index}"
                )
        for word in SPECIAL_WORDS:
            del self._ids[word]

    @classmethod
    def from_counts(
        cls, counts: Mapping[str, int], max_size: int | None = None, min_count: int = 1
    ) -> "Vocabulary":
        """Builds the vocabulary of the most frequent words, ties in alphabetical order.

        Args:
            counts: mapping from word to how often it occurs, for example `survey(files).words`.
                Special words in it are ignored.
            max_size: largest number of ids, the 3 special ones included. `None`: no limit.
            min_count: words that occur less often are left out.

        Raises:
            ValueError: if `max_size` is not more than 3 or `min_count` is less than 1, or if no
                word occurs so often.
            TextError: if there are no words but special ones.
        """
        if max_size is not None and max_size <= len(SPECIAL_WORDS):
            raise ValueError(
                f"max_size must be more than {len(SPECIAL_WORDS)}, the special words,"
                f" got {max_size}"
            )
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        words = [word for word in counts if word not in SPECIAL_WORDS]
        if not words:
            raise TextError(
                f"the text has no words but {', '.join(SPECIAL_WORDS)}, which stand for the end and"
                " beginning of a sentence and for unknown words: there is nothing to learn"
            )
        kept = [word for word in words if counts[word] >= min_count]
        if not kept:
            count, word = max((counts[word], word) for word in words)
            raise ValueError(
                f"min_count is {min_count}, but the most frequent word, {word!r}, occurs "
                f"{count} times: no word would be left"
            )
        kept.sort(key=lambda word: (-counts[word], word))
        return cls([*SPECIAL_WORDS, *kept][:max_size])

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Vocabulary":
        """Reads a vocabulary from a UTF-8 text file, one word a line, in the order of the ids.

        Raises:
            TextError: if the file is missing or is not a vocabulary, naming file and line.
        """
        path = os.fspath(path)
        lines = b"".join(read_bytes(path)).removesuffix(b"\n").split(b"\n")
        words: list[str] = []
        seen: dict[str, int] = {}
        for line_number, line in enumerate(lines, 1):
            word = _decode_line(line.removesuffix(b"\r"), path, line_number)
            if line_number <= 3 and word != SPECIAL_WORDS[line_number - 1]:
                raise TextError(
                    f"{path}:{line_number}: expected {SPECIAL_WORDS[line_number - 1]}, found"
                    f" {word!r}: a vocabulary begins with {', '.join(SPECIAL_WORDS)}"
                )
            if seen.setdefault(word, line_number) != line_number:
                raise TextError(
                    f"{path}:{line_number}: the word {word!r} is already on line {seen[word]}"
                )
            words.append(word)
        if len(words) < len(SPECIAL_WORDS):
            raise TextError(
                f"{path}:{len(words) + 1}: expected {SPECIAL_WORDS[len(words)]},"
                " found the end of the file"
            )
        if len(words) == len(SPECIAL_WORDS):
            raise TextError(f"{path}: has only the special words; it must have other words too")
        return cls(words)

    def save(self, path: str | os.PathLike) -> None:
        """Writes the file that `load` reads. The file is written in full or not at all."""
        with atomic_write(path) as file:
            file.writelines(word + "\n" for word in self._words)

    def __len__(self) -> int:
        return len(self._words)

    def __contains__(self, word: str) -> bool:
        """Whether the word has an id of its own. False for the special words, which no text
        contains.
        """
        return word in self._ids

    def word(self, index: int) -> str:
        """Returns the word of an id. Raises `IndexError` if there is none."""
        if not 0 <= index < len(self._words):
            raise IndexError(f"id {index} is not in a vocabulary of {len(self._words)} words")
        return self._words[index]

    def encode(self, words: Iterable[str]) -> list[int]:
        """Returns the ids of a sequence of words, without boundaries; unknown and special words are
        `UNKNOWN`.
        """
        return [self._ids.get(word, UNKNOWN) for word in words]

    def decode(self, ids: Iterable[int]) -> list[str]:
        """Returns the words of a sequence of ids. Raises `IndexError` for an id which is out of
        range.
        """
        return [self.word(index) for index in ids]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the words in their order, in hexadecimal: equal if and only if the
        vocabularies are.
        """
        return hashlib.sha256(
            "".join(word + "\n" for word in self._words).encode("utf-8")
        ).hexdigest()

    def lookup_table(self) -> tf.lookup.StaticHashTable:
        """Returns `encode` as a TensorFlow lookup table, strings to int32 ids, for use in a
        `tf.data` graph.
        """
        words = tf.constant(list(self._ids), tf.string)
        ids = tf.constant(list(self._ids.values()), tf.int32)
        return tf.lookup.StaticHashTable(
            tf.lookup.KeyValueTensorInitializer(words, ids), default_value=UNKNOWN
        )


def _decode_line(line, path, line_number):
    """Returns the word on a line of a vocabulary file."""
    if line.split() != [line]:
        problem = "has white space in it" if line.strip() else "is empty"
        raise TextError(
            f"{path}:{line_number}: the line {problem}; a vocabulary has one word a line"
        )
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise TextError(
            f"{path}:{line_number}:{error.start + 1}: the word is not valid UTF-8 ({error.reason})"
        ) from None
