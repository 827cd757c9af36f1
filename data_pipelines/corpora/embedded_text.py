"""The default corpus, made of text that is part of every installation: no download, no file to
supply.

Kinds of text as unlike as an installation offers: English prose (`english_text`), Python source
(`python_text`) and a number of languages (`language_text`).
"""

import dataclasses
import hashlib
import pathlib

from tfmoe.data_pipelines import english_text, installed_sources, language_text, python_text
from tfmoe.data_pipelines.atomic_write import atomic_write
from tfmoe.data_pipelines.corpora import written
from tfmoe.data_pipelines.corpora.corpus import LanguageCorpus, Settings, below, not_a_seed
from tfmoe.data_pipelines.splits import Splits
from tfmoe.extras import is_installed, require

FORMAT = 1  # to be raised when the text of the same settings changes
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedWords(Settings):
    """Numbers of words of each kind, punctuation marks included; 0 for none. If an installation has
    less, the corpus has what there is.

    Args:
        english: prose of the installed packages' documentation.
        python: source code.
        languages: shared equally by the languages of the corpus.
    """

    english: int = 1_000_000
    python: int = 1_500_000
    languages: int = 1_500_000

    def problems(self):
        return below(0, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EmbeddedText(LanguageCorpus):
    """The default corpus, made of text that is part of every installation.

    Its directory gets `train.txt`, `valid.txt` and `test.txt`, one tokenised sentence a line, in
    random order; beside each a `.domain` file with the kind of every line (`english`, `python`, or
    the language); and `corpus.json` with settings, versions and counts. No line occurs twice, and a
    hash of the line decides where it goes. Equal settings and versions give equal files.

    Args:
        words: an `EmbeddedWords`.
        languages: CLDR locales, such as de and fr.
        seed: of the corpus; the training has its own.
    """

    tokenization = "text"
    generated = True

    words: EmbeddedWords = EmbeddedWords()
    languages: list[str] = dataclasses.field(
        default_factory=lambda: ["de", "fr", "es", "ru", "it", "pl", "tr", "fi"]
    )
    seed: int = 0

    def problems(self):
        if not any(dataclasses.asdict(self.words).values()):
            yield "words must be some of at least one kind, got none"
        if isinstance(self.languages, str) or len(set(self.languages)) < len(self.languages):
            yield f"languages must be a list of different locales, got {self.languages!r}"
            return
        if self.words.languages and not self.languages:
            yield f"languages must not be empty where words.languages={self.words.languages}"
        for index, language in enumerate(self.languages if is_installed("babel") else ()):
            if not language_text.is_known(language):
                yield (
                    f"languages[{index}] must be a locale that Babel knows, such as 'de', got"
                    f" {language!r}"
                )
        yield from not_a_seed(self.seed)

    def splits(self, directory):
        directory = pathlib.Path(directory)
        made_from = {
            "format": FORMAT,
            "words": dataclasses.asdict(self.words),
            "languages": list(self.languages),
            "seed": self.seed,
            "versions": installed_sources.versions(DISTRIBUTIONS),
        }
        files = [f"{part}.{ending}" for part in written.PARTS for ending in ("txt", "domain")]
        if not written.is_complete(directory, {"made_from": made_from}, files):
            kinds = self._kinds()
            if self.languages and self.words.languages:
                require(*language_text.PACKAGES)
            lines = self._lines(kinds)
            written.begin(directory)
            counts = {
                part: _write(directory / part, ordered, lines, kinds)
                for part, ordered in _split(lines, self.seed).items()
            }
            written.finish(directory, {"made_from": made_from, "counts": counts})
        return Splits(*([str(directory / f"{part}.txt")] for part in written.PARTS))

    def _kinds(self):
        """Returns `{kind: number of words}`, with one kind for each language."""
        each = self.words.languages // len(self.languages) if self.languages else 0
        kinds = {"english": self.words.english, "python": self.words.python}
        kinds |= dict.fromkeys(self.languages, each)
        return {kind: number for kind, number in kinds.items() if number}

    def _lines(self, kinds):
        """Returns `{line: kind}`, each line once. `kinds`: what `_kinds` returns."""
        lines = {}
        for kind, number in kinds.items():
            for sentence in _take_words(_sentences(kind, self.seed), number):
                lines.setdefault(" ".join(sentence), kind)
        return lines


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
    parts = {part: [] for part in written.PARTS}
    for digest, line in hashed:
        place = int.from_bytes(digest[-8:], "big") / 2**64
        parts["valid" if place < fraction else "test" if place < 2 * fraction else "train"].append(
            line
        )
    return parts


def _write(path, ordered, lines, kinds):
    """Writes the lines of one part, and their kinds.

    Args:
        path: `pathlib.Path` without ending.
        ordered: the lines in their order.
        lines: `{line: kind}`.
        kinds: all kinds.

    Returns:
        `{kind: {"sentences", "words"}}`.
    """
    with (
        atomic_write(path.with_suffix(".txt")) as text,
        atomic_write(path.with_suffix(".domain")) as domains,
    ):
        text.writelines(line + "\n" for line in ordered)
        domains.writelines(lines[line] + "\n" for line in ordered)
    counts = {kind: {"sentences": 0, "words": 0} for kind in kinds}
    for line in ordered:
        counts[lines[line]]["sentences"] += 1
        counts[lines[line]]["words"] += line.count(" ") + 1
    return counts
