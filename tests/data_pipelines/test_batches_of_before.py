"""Batches of equal settings are those of version 0.1.0, in their order: a run that was begun then
goes on with what an uninterrupted one would have seen.

The digests are of TensorFlow 2.21's random numbers where a setting shuffles.
"""

import dataclasses
import hashlib
import itertools
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
THIRD = {"shard_index": 2, "shard_count": 3}
TAGGED = {"tag_language": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("text")


def digest(batches, count=None):
    """Number of batches, and a digest of their arrays."""
    sha, number = hashlib.sha256(), 0
    for inputs, targets in itertools.islice(batches.as_numpy_iterator(), count):
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


@pytest.mark.parametrize(
    ("expected", "count", "options"),
    [
        ("113:cbfad835403f5ecd", None, {"shuffle": False}),
        ("72:12f2585ab66219b6", None, {"shuffle": False, "passes": 2, **THIRD}),
        ("226:143cbadcb44dd1d5", None, {"passes": 2, "seed": 3}),
        ("40:9fc237bbbf188237", 40, {"passes": None, "seed": 3, "start_batch": 300}),
    ],
)  # fmt: skip
def test_language_model_batches(sentences, expected, count, options):
    vocabulary = Vocabulary(["</S>", "<S>", "<UNK>", *WORDS])
    options = {"batch_tokens": 64, "max_length": 16, "passes": 1, **options}
    assert digest(language_model_batches(sentences, vocabulary, **options), count) == expected


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


@pytest.mark.parametrize(
    ("expected", "count", "directions", "weight", "options"),
    [
        ("116:8fbd47230017ad11", None, 1, 1, {"shuffle": False}),
        ("354:5981b0d6b872f8d4", None, 2, 1, {"shuffle": False, **TAGGED, "passes": 2}),
        ("232:9c068cd664c5e8c9", None, 1, 1, {"passes": 2, "seed": 4}),
        ("350:37873f3339f905f7", None, 2, 1, {"passes": 2, **TAGGED, "shuffle_buffer": 30}),
        ("60:631486f68b226335", 60, 2, 1, {"passes": None, "start_batch": 200}),
        ("525:6b967356518c33b7", None, 2, 0.3, {"passes": 3, **TAGGED}),
        ("50:a21a42f864b879b1", 50, 2, 0.3, {"passes": None, **TAGGED, "start_batch": 150}),
    ],
)  # fmt: skip
def test_parallel_batches(german, french, subwords, expected, count, directions, weight, options):
    files = [dataclasses.replace(german, weight=weight), french][:directions]
    options = {"batch_tokens": 120, "max_length": 40, "passes": 1, **options}
    assert digest(parallel_batches(files, subwords, **options), count) == expected
