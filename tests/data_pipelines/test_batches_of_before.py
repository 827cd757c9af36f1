"""Batches to evaluate on are those of version 0.1.0, in their order."""

import hashlib
import random

import numpy as np
import pytest
from sentencepiece import sentencepiece_model_pb2 as sentencepiece

from tfmoe.data_pipelines import (
    Subwords,
    Vocabulary,
    find_parallel,
    language_model_batches,
    parallel_batches,
)

WORDS = [f"w{number}" for number in range(40)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def digest(batches):
    """Number of batches, and a digest of their arrays."""
    sha, number = hashlib.sha256(), 0
    for inputs, targets in batches.as_numpy_iterator():
        parts = (*inputs, targets) if isinstance(inputs, tuple) else (inputs, targets)
        for part in parts:
            sha.update(repr((part.shape, str(part.dtype))).encode())
            sha.update(np.ascontiguousarray(part).tobytes())
        number += 1
    return f"{number}:{sha.hexdigest()[:16]}"


@pytest.fixture(scope="module")
def sentences(folder):
    """Three files of 100 sentences of 1 to 40 words."""
    draw = random.Random(1)
    for file in range(3):
        lines = [
            " ".join(f"w{draw.randint(0, 50)}" for _ in range(draw.randint(1, 40)))
            for _ in range(100)
        ]
        (folder / f"{file}.txt").write_text("\n\n".join(lines) + "\n")
    return [str(folder / f"{file}.txt") for file in range(3)]


def test_language_model_batches(sentences):
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", *WORDS])
    batches = language_model_batches(sentences, vocabulary, batch_tokens=64, max_length=16)
    assert digest(batches) == "113:cbfad835403f5ecd"


def pairs(folder, name, languages, count, seed):
    """Pairs of 1 to 25 letters."""
    draw, sides = random.Random(seed), ([], [])
    for _ in range(count):
        length = draw.randint(1, 22)
        for side in sides:
            size = max(1, length + draw.randint(-3, 3))
            side.append(" ".join(draw.choice("abcdefgh") for _ in range(size)))
    for language, side in zip(languages, sides, strict=True):
        (folder / f"{name}.{language}").write_text("\n".join(side) + "\n")


@pytest.fixture(scope="module")
def german(folder):
    pairs(folder, "a0", ("de", "en"), 100, 0)
    pairs(folder, "a1", ("de", "en"), 150, 1)
    return find_parallel(folder / "a?", "de", "en")


@pytest.fixture(scope="module")
def french(folder):
    pairs(folder, "b", ("en", "fr"), 120, 2)
    return find_parallel(folder / "b", "en", "fr")


@pytest.fixture(scope="module")
def subwords():
    """A model that no training made: letters, some with a space before them."""
    model, kinds = sentencepiece.ModelProto(), sentencepiece.ModelProto.SentencePiece

    def add(piece, score, kind):
        model.pieces.add(piece=piece, score=score, type=kind)

    for piece in ("</s>", "<s>", "<unk>", "<2en>", "<2fr>"):
        add(piece, 0, kinds.UNKNOWN if piece == "<unk>" else kinds.CONTROL)
    add("\u2581", -3, kinds.NORMAL)
    for index, letter in enumerate("abcdefgh"):
        add(letter, -4 - index, kinds.NORMAL)
        if index % 2:
            add("\u2581" + letter, -2 - index / 8, kinds.NORMAL)
    model.trainer_spec.model_type = sentencepiece.TrainerSpec.UNIGRAM
    model.trainer_spec.unk_id, model.trainer_spec.bos_id = 2, 1
    model.trainer_spec.eos_id, model.trainer_spec.pad_id = 0, -1
    model.trainer_spec.vocab_size = len(model.pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    model.normalizer_spec.escape_whitespaces = True
    return Subwords(model.SerializeToString(deterministic=True))


def test_parallel_batches(german, french, subwords):
    batches = parallel_batches(german, subwords, batch_tokens=120)
    assert digest(batches) == "116:8fbd47230017ad11"
    options = {"batch_tokens": 120, "tag_language": True}
    batches = parallel_batches([german, french], subwords, **options)
    assert digest(batches.repeat(2)) == "354:5981b0d6b872f8d4"
