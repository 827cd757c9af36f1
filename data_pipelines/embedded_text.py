"""The default corpus, made of text that is part of every installation: no download, no file to
supply.

Kinds of text as unlike as an installation offers: English prose (`english_text`), Python source
(`python_text`) and a number of languages (`language_text`). The same parameters and the same
versions give the same files.
"""

import hashlib
import itertools
import json
import pathlib

from data_pipelines import english_text, installed_sources, language_text, python_text
from data_pipelines.atomic_write import atomic_write
from data_pipelines.splits import Splits

FORMAT = 1  # to be raised when the text of the same parameters changes
DEFAULT_WORDS = {"english": 1_000_000, "python": 1_500_000, "languages": 1_500_000}
DEFAULT_LANGUAGES = ("de", "fr", "es", "ru", "it", "pl", "tr", "fi")
PROSE_PACKAGES = (
    "numpy", "keras", "matplotlib", "pydantic", "absl", "h5py", "PIL", "rich", "pygments",
    "fontTools", "typer", "babel", "werkzeug", "setuptools", "google", "_pytest", "tensorboard",
    "tensorflow",
)  # fmt: skip
SOURCE_PACKAGES = ("numpy", "keras", "matplotlib")
DISTRIBUTIONS = (
    "numpy", "keras", "matplotlib", "pydantic", "absl-py", "h5py", "pillow", "rich", "pygments",
    "fonttools", "typer", "babel", "werkzeug", "setuptools", "protobuf", "pytest", "tensorboard",
    "tensorflow", "num2words",
)  # fmt: skip
EVALUATION_FRACTION = 0.02  # of the lines, each for validation and test
EVALUATION_WORDS = 60_000  # about the most in each
PARTS = ("train", "valid", "test")


def write_embedded_text(directory, *, words=None, languages=DEFAULT_LANGUAGES, seed=0):
    """Writes the embedded corpus, unless the directory already has it.

    The directory gets `train.txt`, `valid.txt` and `test.txt`, one tokenised sentence a line, in
    random order; beside each a `.domain` file with the kind of every line (`english`, `python`, or
    the language); and `corpus.json` with parameters, versions and counts, written last. No line
    occurs twice, and a hash of the line decides where it goes.

    Args:
        directory: where to write; made if missing.
        words: mapping from kind (`"english"`, `"python"`, `"languages"`) to the number of words
            wanted, punctuation marks included; a kind not named is left out. `"languages"` is
            shared equally by `languages`. If an installation has less, the corpus has what there
            is, and `corpus.json` says how much. `None`: `DEFAULT_WORDS`.
        languages: CLDR locales, such as `("de", "fr")`.
        seed: integer, for what is drawn and for the order of the lines.

    Returns:
        `Splits` of one file each.

    Raises:
        ValueError: if a kind or a language is unknown, a number of words is negative, or nothing is
            wanted.
    """
    words = dict(DEFAULT_WORDS if words is None else words)
    made_from = {
        "format": FORMAT,
        "words": words,
        "languages": list(languages),
        "seed": seed,
        "versions": installed_sources.versions(DISTRIBUTIONS),
    }
    wanted = _wanted(words, languages)
    directory = pathlib.Path(directory)
    description = directory / "corpus.json"
    splits = Splits(*([str(directory / f"{part}.txt")] for part in PARTS))
    if _is_complete(directory, made_from):
        return splits
    lines = {}  # line -> kind
    for kind, number in wanted.items():
        for sentence in _take_words(_sentences(kind, seed), number):
            lines.setdefault(" ".join(sentence), kind)
    parts = _split(lines, seed)
    description.unlink(missing_ok=True)
    counts = {}
    for part, ordered in parts.items():
        with (
            atomic_write(directory / f"{part}.txt") as text,
            atomic_write(directory / f"{part}.domain") as domains,
        ):
            text.writelines(line + "\n" for line in ordered)
            domains.writelines(lines[line] + "\n" for line in ordered)
        counts[part] = {kind: {"sentences": 0, "words": 0} for kind in wanted}
        for line in ordered:
            counts[part][lines[line]]["sentences"] += 1
            counts[part][lines[line]]["words"] += line.count(" ") + 1
    with atomic_write(description) as file:
        json.dump({"made_from": made_from, "counts": counts}, file, indent=1)
    return splits


def _wanted(words, languages):
    """Returns `{kind: number of words}`, with one kind for each language."""
    unknown = sorted(set(words) - set(DEFAULT_WORDS))
    if unknown:
        raise ValueError(
            f"words: unknown kind {unknown[0]!r}; the kinds are {', '.join(DEFAULT_WORDS)}"
        )
    for kind, number in words.items():
        if number < 0:
            raise ValueError(f"words[{kind!r}] must not be negative; it is {number}")
    if isinstance(languages, str) or len(set(languages)) < len(languages):
        raise ValueError(f"languages must be a list of different locales; it is {languages!r}")
    if words.get("languages") and not languages:
        raise ValueError("languages must not be empty when words['languages'] is not 0")
    wanted = {kind: words.get(kind, 0) for kind in ("english", "python")}
    for language in languages:
        language_text.check_language(language)
    wanted |= {language: words.get("languages", 0) // len(languages) for language in languages}
    wanted = {kind: number for kind, number in wanted.items() if number}
    if not wanted:
        raise ValueError("words: nothing is wanted; ask for some words of at least one kind")
    return wanted


def _is_complete(directory, made_from):
    """Whether the directory holds the corpus of these parameters."""
    try:
        found = json.loads((directory / "corpus.json").read_text(encoding="utf-8"))["made_from"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    files = [directory / f"{part}.{ending}" for part in PARTS for ending in ("txt", "domain")]
    return found == made_from and all(file.is_file() for file in files)


def _sentences(kind, seed):
    """Returns the iterator over sentences of a kind."""
    if kind == "english":
        return english_text.english_sentences(PROSE_PACKAGES)
    if kind == "python":
        return python_text.python_sentences(SOURCE_PACKAGES)
    return language_text.language_sentences(kind, seed)


def _take_words(sentences, number):
    """Yields sentences until they have the number of words."""
    total = 0
    for sentence in sentences:
        yield sentence
        total += len(sentence)
        if total >= number:
            return


def _split(lines, seed):
    """Divides lines by their hash. Returns `{"train": […], "valid": […], "test": […]}`, each in the
    order of the hash.
    """
    total = sum(line.count(" ") + 1 for line in lines)
    fraction = min(EVALUATION_FRACTION, EVALUATION_WORDS / total)
    hashed = sorted((hashlib.sha256(f"{seed} {line}".encode()).digest(), line) for line in lines)
    parts = {part: [] for part in PARTS}
    for digest, line in hashed:
        place = int.from_bytes(digest[-8:], "big") / 2**64
        parts["valid" if place < fraction else "test" if place < 2 * fraction else "train"].append(
            line
        )
    return parts


def available_words(languages=DEFAULT_LANGUAGES, *, most=5_000_000, seed=0):
    """Counts how many words of each kind this installation has, up to a limit. Takes about a
    minute.

    Args:
        languages: CLDR locales.
        most: where to stop counting a kind.
        seed: integer.

    Returns:
        `{kind: number of words}`.
    """
    kinds = itertools.chain(("english", "python"), languages)
    return {kind: sum(map(len, _take_words(_sentences(kind, seed), most))) for kind in kinds}
