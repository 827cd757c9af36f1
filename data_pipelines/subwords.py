"""Pieces of words, shared by all languages of a translation model: a SentencePiece vocabulary."""

import functools
import hashlib
import os
from collections.abc import Iterable, Sequence

import tensorflow as tf

from tfmoe.data_pipelines.atomic_write import atomic_write_bytes
from tfmoe.data_pipelines.reading import TextError, read_bytes
from tfmoe.data_pipelines.subword_training import SPECIAL_PIECES, train_model
from tfmoe.extras import optional

sentencepiece = optional("sentencepiece")
tensorflow_text = optional("tensorflow_text")
operations = optional("tensorflow_text.python.ops.sentencepiece_tokenizer")

MAX_SENTENCES = 2_000_000  # to train on


class Subwords:
    """A SentencePiece model: text to ids of pieces, and back.

    Id 0 is `</s>` (`END`, and padding), 1 is `<s>` (`START`), 2 is `<unk>` (`UNKNOWN`); then comes
    one symbol `<2fr>` for each target language of a multilingual model; then the pieces.

    Text is not normalised, only its spaces are: those at both ends go, and several become one. So
    `decode(encode(text)) == text` for a text with single spaces whose characters are all in the
    vocabulary. One character cannot be kept: `▁` (U+2581), which SentencePiece writes for a space.
    A tab, a no-break space, an ideographic space or a byte order mark is a character like others
    here; `sentence_pairs` makes spaces of ASCII white space and drops byte order marks.

    A character that is not in the vocabulary becomes `UNKNOWN`, several in a row one. It comes back
    as `⁇`. The special pieces and the language symbols are never made from text: `<2fr>` in a
    sentence becomes pieces for `<`, `2fr` and `>`, or `UNKNOWN`.

    Args:
        serialized: bytes of a SentencePiece model with the ids above, as `train` makes them.

    Raises:
        ValueError: if these are not the bytes of such a model.
    """

    def __init__(self, serialized: bytes):
        self.serialized = bytes(serialized)
        self._model = _processor(self.serialized)
        special = [self._model.id_to_piece(index) for index in range(min(3, len(self)))]
        if tuple(special) != SPECIAL_PIECES:
            raise ValueError(
                f"the first pieces must be {', '.join(SPECIAL_PIECES)} (ids 0, 1, 2); they are"
                f" {', '.join(special) or 'missing'}"
            )
        self.languages: list[str] = []
        for index in range(3, len(self)):
            if not self._model.is_control(index):
                break
            self.languages.append(self._model.id_to_piece(index)[2:-1])

    @classmethod
    def train(
        cls,
        sentences: Iterable[str],
        size: int,
        languages: Sequence[str] = (),
        character_coverage: float = 1.0,
        max_sentences: int = MAX_SENTENCES,
        seed: int = 0,
    ) -> "Subwords":
        """Trains a unigram model. The same arguments give the same model, byte for byte.

        Args:
            sentences: iterable of strings, of all languages. Sentences of more than 4192 bytes are
                not used.
            size: largest number of ids, special pieces and languages included. A small text gives
                fewer.
            languages: names of the target languages of a multilingual model, such as `["fr",
                "de"]`, in the order of their ids. Empty for a model of one pair of languages.
            character_coverage: share of the text's characters, by frequency, which get a piece
                each, at least 0.98. 1: every character that occurs. Others become `UNKNOWN`.
            max_sentences: if there are more sentences, so many are drawn from all of them. So many
                are held in memory.
            seed: integer, for this drawing.

        Raises:
            ValueError: if an argument is out of its range, or `size` is too small for the
                characters of the text.
            TextError: if there is no sentence.
        """
        serialized = train_model(
            sentences, size, languages, character_coverage, max_sentences, seed
        )
        return cls(serialized)

    @classmethod
    def load(cls, path: str | os.PathLike) -> "Subwords":
        """Reads the file that `save` wrote.

        Raises:
            TextError: if the file is missing or is no such model, naming it.
        """
        path = os.fspath(path)
        try:
            return cls(b"".join(read_bytes(path)))
        except ValueError as error:
            raise TextError(f"{path}: not a subword model of this project: {error}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Writes the model, usually as `vocabulary.model`. The file is written in full or not at
        all.
        """
        atomic_write_bytes(path, self.serialized)

    def __len__(self) -> int:
        return self._model.get_piece_size()

    def piece(self, index: int) -> str:
        """Returns the piece of an id. `▁` in it is a space. Raises `IndexError` if there is
        none.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"id {index} is not in a vocabulary of {len(self)} pieces")
        return self._model.id_to_piece(index)

    def language_id(self, language: str) -> int:
        """Returns the id of the symbol that asks for a translation into a language.

        Args:
            language: name as given to `train`, such as "fr".

        Raises:
            ValueError: if the model does not have this language.
        """
        if language not in self.languages:
            known = ", ".join(self.languages) or "none, it is of one pair of languages"
            raise ValueError(f"the subword model has no language {language!r}; it has: {known}")
        return len(SPECIAL_PIECES) + self.languages.index(language)

    def encode(self, text: str) -> list[int]:
        """Returns the ids of a string, without start and end."""
        return self._model.encode(text)

    def encode_lines(self, texts: list[str] | list[bytes]) -> list[list[int]]:
        """Returns `encode` of each string (or UTF-8 bytes) of a list, computed on all cores."""
        return self._model.encode(texts, num_threads=-1)

    def encoded_lengths(self, texts: list[str] | list[bytes]) -> list[int]:
        """Returns the number of ids of each string (or UTF-8 bytes) of a list."""
        return [len(ids) for ids in self._model.encode(texts, num_threads=1)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of a sequence of ids; `</s>`, `<s>` and language symbols are nothing.

        Raises:
            IndexError: if an id is out of range.
        """
        ids = [int(index) for index in ids]
        for index in ids:
            self.piece(index)
        return self._model.decode(ids)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the model's bytes, in hexadecimal."""
        return hashlib.sha256(self.serialized).hexdigest()

    def tokenizer(self):
        """Returns the model as a `tensorflow_text.SentencepieceTokenizer`, for use in graphs.

        `tokenize` takes strings `[…]` and gives int32 ids, ragged `[…, pieces]`, without start and
        end; `detokenize` is the way back. Both do what `encode` and `decode` do; only of two ways
        of equal probability to cut a word, `tokenize` may take another. A SavedModel holds the
        tokenizer if it is an attribute of the saved module.
        """
        tokenizer = tensorflow_text.SentencepieceTokenizer(model=self.serialized)
        tokenizer._model_resource = _SharedModel(self.serialized, self.fingerprint)
        return tokenizer


class _SharedModel(tf.saved_model.experimental.TrackableResource):
    """The model as a resource with its own name.

    tensorflow_text's own belongs to the operation that made it, and is gone as soon as TensorFlow
    empties its cache of operations, which setting a random seed does.
    """

    def __init__(self, serialized, name):
        super().__init__()
        self._serialized, self._shared_name = serialized, name
        _ = self.resource_handle  # makes it

    def _create_resource(self):
        return operations.gen_sentencepiece_tokenizer.sentencepiece_op(
            model=self._serialized, shared_name=f"subwords_{self._shared_name}"
        )


def _processor(serialized):
    """Returns the SentencePiece processor of a serialized model."""
    if not serialized:
        raise ValueError("it is empty")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(serialized)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
    return processor
