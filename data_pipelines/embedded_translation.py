"""The default translation corpus, rendered from `parallel_sentences`: no download, no file to
supply.

The same parameters and the same versions give the same files.
"""

import hashlib
import json
import pathlib

from data_pipelines import installed_sources
from data_pipelines.atomic_write import atomic_write
from data_pipelines.parallel_sentences import Meanings, Renderer, check_language

FORMAT = 1  # to be raised when the text of the same parameters changes
DISTRIBUTIONS = ("babel", "num2words")
PARTS = ("train", "valid", "test")
# Of all meanings, independent of language and seed: what one corpus tests on, no other one trains
# on.
EVALUATION_FRACTION = 0.05  # each for validation and test
MOST_WORDS = 40  # in a sentence
MOST_DRAWS = 50_000  # without a new sentence, before a part counts as exhausted


def write_embedded_translation(
    directory,
    *,
    pairs=(("en", "fr"),),
    sentences=40_000,
    valid_sentences=1_000,
    test_sentences=1_000,
    seed=0,
):
    """Writes the embedded translation corpus, unless the directory already has it.

    The directory gets six files for each pair of languages, named as Moses does, such as
    `train.de-en.de` and `train.de-en.en`, with the languages in alphabetical order; line n of one
    is the translation of line n of the other. Both directions of a pair share the files. Lines are
    plain sentences, not tokenised. `corpus.json` has parameters, versions and counts, and is
    written last.

    A hash of the meaning, which all languages share, decides whether it is for training, validation
    or test. In addition no sentence of a test part, in any pair of the corpus, occurs in a
    validation or training part, and none of a validation part in a training part. Within a part of
    a pair, no sentence occurs twice on either side.

    Args:
        directory: where to write; made if missing.
        pairs: pairs of different languages of `parallel_sentences.LANGUAGES`. Their order does not
            matter, nor that of the two languages.
        sentences: number of training sentences for each pair, at least 1.
        valid_sentences, test_sentences: likewise for validation and test.
        seed: integer, for what is drawn. Each pair has sentences of its own.

    Returns:
        Mapping from `(source, target)`, in both directions, to `{"train": prefix, "valid": prefix,
        "test": prefix}`; a prefix such as `directory/train.de-en` becomes a file by `.de` or `.en`.

    Raises:
        ValueError: if there is no pair, a language is unknown, a pair has one language twice, a
            number is less than 1, or there are fewer different sentences than wanted.
    """
    pairs = _ordered(pairs)
    wanted = {"train": sentences, "valid": valid_sentences, "test": test_sentences}
    for part, number in wanted.items():
        if number < 1:
            name = "sentences" if part == "train" else f"{part}_sentences"
            raise ValueError(f"{name} must be at least 1; it is {number}")
    made_from = {
        "format": FORMAT,
        "pairs": [list(pair) for pair in pairs],
        "sentences": wanted,
        "seed": seed,
        "versions": installed_sources.versions(DISTRIBUTIONS),
    }
    directory = pathlib.Path(directory)
    description = directory / "corpus.json"
    prefixes = {
        pair: {part: str(directory / f"{part}.{'-'.join(pair)}") for part in PARTS}
        for pair in pairs
    }
    files = [
        f"{prefix}.{language}"
        for pair, of_pair in prefixes.items()
        for prefix in of_pair.values()
        for language in pair
    ]
    both_directions = prefixes | {pair[::-1]: of_pair for pair, of_pair in prefixes.items()}
    if _is_complete(description, made_from, files):
        return both_directions
    renderers = {language: Renderer(language) for pair in pairs for language in pair}
    description.unlink(missing_ok=True)
    counts = {}
    taken = {language: set() for language in renderers}  # what later parts must not have
    for part in reversed(PARTS):  # test, valid, train
        here = {language: set() for language in renderers}
        for pair in pairs:
            texts = _texts(part, pair, renderers, taken, wanted[part], seed)
            for language, lines in zip(pair, texts, strict=True):
                with atomic_write(f"{prefixes[pair][part]}.{language}") as file:
                    file.writelines(line + "\n" for line in lines)
                here[language].update(lines)
            counts.setdefault("-".join(pair), {})[part] = {
                "sentences": wanted[part],
                "words": {
                    language: sum(len(line.split()) for line in lines)
                    for language, lines in zip(pair, texts, strict=True)
                },
            }
        for language, lines in here.items():
            taken[language] |= lines
    with atomic_write(description) as file:
        json.dump({"made_from": made_from, "counts": counts}, file, indent=1)
    return both_directions


def _ordered(pairs):
    """Returns each unordered pair once, as a tuple in alphabetical order; the pairs in order."""
    found = set()
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2:
            raise ValueError(f"pairs: a pair must be two languages; one is {pair!r}")
        for language in pair:
            check_language(language)
        if pair[0] == pair[1]:
            raise ValueError(f"pairs: the two languages of a pair must differ; one is {pair!r}")
        found.add(tuple(sorted(pair)))
    if not found:
        raise ValueError("pairs must not be empty")
    return sorted(found)


def _is_complete(description, made_from, files):
    """Whether the directory holds the corpus of these parameters."""
    try:
        found = json.loads(description.read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return found == made_from and all(pathlib.Path(file).is_file() for file in files)


def _texts(part, pair, renderers, taken, wanted, seed):
    """Draws the sentences of one part of one pair. Returns two lists of lines, one a language."""
    meanings = Meanings(f"{seed} {part} {' '.join(pair)}")
    first, second = {}, {}  # in order, each line once
    draws = 0
    while len(first) < wanted:
        if draws == MOST_DRAWS:
            raise ValueError(
                f"{part}.{'-'.join(pair)}: {wanted} sentences are wanted, but there are only about "
                f"{len(first)} different ones"
            )
        draws += 1
        meaning = meanings.meaning()
        if _part(meaning) != part:
            continue
        one, other = (renderers[language].sentence(meaning) for language in pair)
        known = one in first or other in second or one in taken[pair[0]] or other in taken[pair[1]]
        if not known and max(len(one.split()), len(other.split())) <= MOST_WORDS:
            first[one] = second[other] = None
            draws = 0
    return list(first), list(second)


def _part(meaning):
    """Returns the part in which a meaning belongs, by its hash."""
    place = int.from_bytes(hashlib.sha256(repr(meaning).encode()).digest()[:8], "big") / 2**64
    if place < EVALUATION_FRACTION:
        return "valid"
    return "test" if place < 2 * EVALUATION_FRACTION else "train"
