"""Pieces of words, shared by all languages of a translation model: a SentencePiece vocabulary."""

import functools
import hashlib
import io
import os
import random
import re
import tempfile

import sentencepiece
import tensorflow as tf
from sentencepiece import sentencepiece_model_pb2

from data_pipelines.atomic_write import atomic_write_bytes
from data_pipelines.text import TextError
from data_pipelines.vocabulary import END, START, UNKNOWN

SPECIAL_PIECES = ("</s>", "<s>", "<unk>")
UNKNOWN_SURFACE = "\u2047"  # ⁇
# `▁` to a space, which decoding makes of it anyway: a model without any rule says so on standard
# error whenever it is used.
NORMALIZATION = "2581\t20\n"
TRAINING_THREADS = 8  # a constant: the model depends on the number of threads


class Subwords:
    """A SentencePiece model: text to ids of pieces, and back.

    Id 0 is `</s>` (`END`, and padding), 1 is `<s>` (`START`), 2 is `<unk>` (`UNKNOWN`); then comes
    one symbol `<2fr>` for each target language of a multilingual model; then the pieces.

    Text is not normalised, only its spaces are: those at both ends go, and several become one. So
    `decode(encode(text)) == text` for a text with single spaces whose characters are all in the
    vocabulary. One character cannot be kept: `▁` (U+2581), which SentencePiece writes for a space.
    A tab, a no-break space, an ideographic space or a byte order mark is a character like others
    here; `parallel.sentence_pairs` makes spaces of ASCII white space and drops byte order marks.

    A character that is not in the vocabulary becomes `UNKNOWN`, several in a row one. It comes back
    as `⁇`. The special pieces and the language symbols are never made from text: `<2fr>` in a
    sentence becomes pieces for `<`, `2fr` and `>`, or `UNKNOWN`.

    Args:
        serialized: bytes of a SentencePiece model with the ids above, as `train` makes them.

    Raises:
        ValueError: if these are not the bytes of such a model.
    """

    def __init__(self, serialized):
        self.serialized = bytes(serialized)
        self._model = _processor(self.serialized)
        special = [self._model.id_to_piece(index) for index in range(min(3, len(self)))]
        if tuple(special) != SPECIAL_PIECES:
            raise ValueError(
                f"the first pieces must be {', '.join(SPECIAL_PIECES)} (ids 0, 1, 2); they are"
                f" {', '.join(special) or 'missing'}"
            )
        self.languages = []
        for index in range(3, len(self)):
            if not self._model.is_control(index):
                break
            self.languages.append(self._model.id_to_piece(index)[2:-1])

    @classmethod
    def train(
        cls,
        sentences,
        size,
        languages=(),
        character_coverage=1.0,
        max_sentences=2_000_000,
        seed=0,
    ):
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
        languages = _checked_languages(languages)
        least = len(SPECIAL_PIECES) + len(languages) + 1
        if size < least:
            raise ValueError(f"size must be at least {least}; it is {size}")
        if not 0.98 <= character_coverage <= 1:
            raise ValueError(
                "character_coverage must be at least 0.98 and at most 1; it is"
                f" {character_coverage}"
            )
        if max_sentences < 1:
            raise ValueError(f"max_sentences must be at least 1; it is {max_sentences}")
        drawn = _draw(sentences, max_sentences, seed)
        if not drawn:
            raise TextError("there is no sentence to train subwords on")
        model = io.BytesIO()
        try:
            with tempfile.NamedTemporaryFile("w", suffix=".tsv") as rules:
                rules.write(NORMALIZATION)
                rules.flush()
                sentencepiece.SentencePieceTrainer.train(
                    sentence_iterator=iter(drawn),
                    model_writer=model,
                    model_type="unigram",
                    vocab_size=size,
                    hard_vocab_limit=False,
                    character_coverage=character_coverage,
                    normalization_rule_tsv=rules.name,
                    control_symbols=[f"<2{language}>" for language in languages],
                    eos_id=END,
                    bos_id=START,
                    unk_id=UNKNOWN,
                    pad_id=-1,
                    eos_piece=SPECIAL_PIECES[END],
                    bos_piece=SPECIAL_PIECES[START],
                    unk_piece=SPECIAL_PIECES[UNKNOWN],
                    unk_surface=UNKNOWN_SURFACE,
                    num_threads=TRAINING_THREADS,
                    minloglevel=2,
                )
        except RuntimeError as error:
            required = re.search(r"required_chars\. \d+ vs (\d+)", str(error))
            if required:
                raise ValueError(
                    f"size must be at least {required[1]}, for the special pieces and for each"
                    f" character of the text; it is {size}. Else lower character_coverage"
                ) from None
            if "sentences_.empty()" in str(error):
                raise TextError("all sentences to train subwords on are too long") from None
            raise ValueError(f"SentencePiece could not train on this text: {error}") from error
        proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
        proto.normalizer_spec.ClearField("normalization_rule_tsv")  # the name of a temporary file
        return cls(proto.SerializeToString(deterministic=True))

    @classmethod
    def load(cls, path):
        """Reads the file that `save` wrote.

        Raises:
            TextError: if the file is missing or is no such model, naming it.
        """
        path = os.fspath(path)
        if not os.path.isfile(path):
            raise TextError(f"{path}: no such subword model")
        with open(path, "rb") as file:
            serialized = file.read()
        try:
            return cls(serialized)
        except ValueError as error:
            raise TextError(f"{path}: not a subword model of this project: {error}") from None

    def save(self, path):
        """Writes the model, usually as `vocabulary.model`. The file is there in full or not at
        all.
        """
        atomic_write_bytes(path, self.serialized)

    def __len__(self):
        return self._model.get_piece_size()

    def piece(self, index):
        """Returns the piece of an id. `▁` in it is a space. Raises `IndexError` if there is
        none.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"id {index} is not in a vocabulary of {len(self)} pieces")
        return self._model.id_to_piece(index)

    def language_id(self, language):
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

    def encode(self, text):
        """Returns the ids of a string, without start and end."""
        return self._model.encode(text)

    def encoded_lengths(self, texts):
        """Returns how many ids each of a list of strings (or UTF-8 bytes) has, as a list."""
        return [len(ids) for ids in self._model.encode(texts, num_threads=1)]

    def decode(self, ids):
        """Returns the text of a sequence of ids; `</s>`, `<s>` and language symbols are nothing.

        Raises:
            IndexError: if an id is out of range.
        """
        ids = [int(index) for index in ids]
        for index in ids:
            self.piece(index)
        return self._model.decode(ids)

    @functools.cached_property
    def fingerprint(self):
        """SHA-256 of the model's bytes, in hexadecimal."""
        return hashlib.sha256(self.serialized).hexdigest()

    def tokenizer(self):
        """Returns the model as a `tensorflow_text.SentencepieceTokenizer`, for use in graphs.

        `tokenize` takes strings `[…]` and gives int32 ids, ragged `[…, pieces]`, without start and
        end; `detokenize` is the way back. Both do what `encode` and `decode` do. A SavedModel
        holds the tokenizer if it is an attribute of the saved module.
        """
        import tensorflow_text  # here, as the import takes seconds and registers operations

        tokenizer = tensorflow_text.SentencepieceTokenizer(model=self.serialized)
        tokenizer._model_resource = _SharedModel(self.serialized, self.fingerprint)
        return tokenizer


class _SharedModel(tf.saved_model.experimental.TrackableResource):
    """The model as a resource with a name of its own.

    tensorflow_text's own belongs to the operation that made it, and is gone as soon as TensorFlow
    empties its cache of operations, which setting a random seed does.
    """

    def __init__(self, serialized, name):
        super().__init__()
        self._serialized, self._shared_name = serialized, name
        _ = self.resource_handle  # makes it

    def _create_resource(self):
        from tensorflow_text.python.ops import sentencepiece_tokenizer as operations

        return operations.gen_sentencepiece_tokenizer.sentencepiece_op(
            model=self._serialized, shared_name=f"subwords_{self._shared_name}"
        )


def _checked_languages(languages):
    if isinstance(languages, str):
        raise ValueError(f"languages must be a list of names; it is the string {languages!r}")
    languages = list(languages)
    for index, language in enumerate(languages):
        if not re.fullmatch(r"[A-Za-z0-9_-]+", language):
            raise ValueError(
                f"a language's name must be of ASCII letters, digits, - and _; found {language!r}"
            )
        if language in languages[:index]:
            raise ValueError(f"the language {language!r} is named twice")
    return languages


def _draw(sentences, count, seed):
    """Returns `count` of the sentences, each with the same probability; all if there are fewer.
    Blank ones do not count.
    """
    drawn, generator = [], random.Random(seed)
    for index, sentence in enumerate(filter(str.strip, sentences)):
        if index < count:
            drawn.append(sentence)
            continue
        place = int(generator.random() * (index + 1))
        if place < count:
            drawn[place] = sentence
    return drawn


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
