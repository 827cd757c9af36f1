"""Files of parallel text: line n of one file is the translation of line n of the other.

Files are UTF-8 text, plain or gzip (`.gz`), or the organisers' `.sgm` files of the WMT test sets.
What a line is, is said in `text`. A sentence is a line's words with one space between them; the
text is not tokenised. A pair with a blank line on either side cannot be used.
"""

import collections
import contextlib
import dataclasses
import glob
import gzip
import html
import itertools
import os
import re
import zlib

from data_pipelines.text import BYTE_ORDER_MARK, TextError

PAIRS_AT_A_TIME = 4096

WMT14_CORPORA = {
    "europarl": "europarl-v7.{pair}",
    "commoncrawl": "commoncrawl.{pair}",
    "un": "undoc.2000.{pair}",
    "news-commentary": "news-commentary-v9.{pair}",
    "giga": "giga-fren.release2.fixed",
}
WMT14_NEWS = (
    ("{year}.{source}", "{year}.{target}"),
    ("{year}.{pair}.{source}", "{year}.{pair}.{target}"),
    ("{year}-{both}.{source}", "{year}-{both}.{target}"),
    ("{year}-{both}-src.{source}.sgm", "{year}-{both}-ref.{target}.sgm"),
    ("{year}-src.{source}.sgm", "{year}-ref.{target}.sgm"),
    ("{year}-src.{source}.sgm", "{year}-src.{target}.sgm"),
)


@dataclasses.dataclass(frozen=True)
class ParallelFiles:
    """Text of one pair of languages, in one direction of translation.

    Args:
        source: list of paths, as strings. File i belongs to file i of `target`.
        target: list of paths.
        source_language: name of the source's language, such as "en".
        target_language: name of the target's language, such as "fr".
        weight: how often training shall see these pairs, as a multiple of their natural share.

    Raises:
        ValueError: if the lists are not of one length, or the weight is not more than 0.
    """

    source: list[str]
    target: list[str]
    source_language: str
    target_language: str
    weight: float = 1.0

    def __post_init__(self):
        if len(self.source) != len(self.target):
            raise ValueError(
                f"source and target must be as many files; they are {len(self.source)} and"
                f" {len(self.target)}"
            )
        if not self.weight > 0:
            raise ValueError(f"weight must be more than 0; it is {self.weight}")

    @property
    def file_pairs(self):
        """List of `(source path, target path)`."""
        return list(zip(self.source, self.target, strict=True))


@dataclasses.dataclass(frozen=True)
class ParallelSplits:
    """Training, validation and test text of one pair of languages, each a `ParallelFiles`."""

    train: ParallelFiles
    valid: ParallelFiles
    test: ParallelFiles


@dataclasses.dataclass(frozen=True)
class ParallelSurvey:
    """What one reading of parallel text found.

    Args:
        pairs: number of pairs with words on both sides.
        empty: number of pairs left out because a side is blank.
        source_words: number of words of the sources, as white space separates them.
        target_words: number of words of the targets.
        lengths: for each pair of files a `Counter` of `(source pieces, target pieces)`, without
            tags and boundaries. `None` if there was no subword model.
    """

    pairs: int
    empty: int
    source_words: int
    target_words: int
    lengths: list[collections.Counter] | None


def count_longer(lengths, max_length):
    """Returns how many pairs have more than `max_length` pieces on either side.

    Args:
        lengths: list of `Counter` of `(source pieces, target pieces)`.
        max_length: integer.
    """
    return sum(
        count for counter in lengths for pair, count in counter.items() if max(pair) > max_length
    )


def find_parallel(prefixes, source_language, target_language, weight=1.0):
    """Finds the files `PREFIX.de` and `PREFIX.en`, or `PREFIX.de.gz` and `PREFIX.en.gz`.

    Args:
        prefixes: a prefix or a glob of prefixes, such as `wmt/training/*.de-en`, or a list of them.
            `~` is the home directory. Files of a glob are sorted.
        source_language: what the names of the source files end in, such as "de".
        target_language: the same of the target files.
        weight: as for `ParallelFiles`.

    Returns:
        A `ParallelFiles`.

    Raises:
        TextError: if a file is missing, naming it; if a glob matches nothing, or the list is empty.
    """
    if isinstance(prefixes, (str, os.PathLike)):
        prefixes = [prefixes]
    if not prefixes:
        raise TextError("no parallel text was named: give at least one prefix or glob")
    found, languages = {}, (source_language, target_language)
    for prefix in prefixes:
        for path in _expand(os.path.expanduser(os.fspath(prefix)), languages):
            found[path] = tuple(_side(path, language) for language in languages)
    sources, targets = zip(*found.values(), strict=True)
    return ParallelFiles(list(sources), list(targets), source_language, target_language, weight)


def _expand(prefix, languages):
    """Returns the prefixes that a prefix or glob names."""
    if not glob.has_magic(prefix) or any(_existing(f"{prefix}.{name}") for name in languages):
        return [prefix]
    matches = set()
    for language in languages:
        for ending in (f".{language}", f".{language}.gz"):
            matches.update(path.removesuffix(ending) for path in glob.glob(prefix + ending))
    if not matches:
        names = " or ".join(f"{prefix}.{name}[.gz]" for name in languages)
        raise TextError(f"{prefix}: no file matches {names} (looked from {os.getcwd()})")
    return sorted(matches)


def _existing(path):
    """Returns the path or, if only that exists, the path with `.gz`; `None` if neither does."""
    return next((name for name in (path, path + ".gz") if os.path.isfile(name)), None)


def _side(prefix, language):
    path = f"{prefix}.{language}"
    found = _existing(path)
    if found is None:
        raise TextError(f"{path}: no such file, nor {path}.gz (looked from {os.getcwd()})")
    return found


def wmt14_files(root, source_language, target_language, corpora=None):
    """Finds the text of the WMT 2014 news translation task below a directory.

    The archives of statmt.org are expected there unpacked, in any directories, each file plain or
    gzip: `training-parallel-europarl-v7`, `-commoncrawl` and `-nc-v9`, for French also
    `training-parallel-un` and `training-giga-fren`, and `dev` and `test-full`. newstest2012 and
    newstest2013 are for validation (at least one must be there), newstest2014 is for the test; they
    may be plain text or `.sgm` files. If the test is there twice, that in a directory `test-full`
    is taken.

    Args:
        root: a directory.
        source_language, target_language: "en" and "fr", or "en" and "de", in either order, or
            others that have such files.
        corpora: names of the training corpora, among "europarl", "commoncrawl", "un",
            "news-commentary" and "giga". `None`: all, without "un" and "giga" if French is not one
            of the languages.

    Returns:
        `ParallelSplits`.

    Raises:
        ValueError: if a corpus is not known.
        TextError: if files are missing or ambiguous, with the names that were looked for.
    """
    root = os.path.expanduser(os.fspath(root))
    if not os.path.isdir(root):
        raise TextError(f"{root}: no such directory")
    if corpora is None:
        french = "fr" in (source_language, target_language)
        corpora = [name for name in WMT14_CORPORA if french or name not in ("un", "giga")]
    unknown = [name for name in corpora if name not in WMT14_CORPORA]
    if unknown:
        raise ValueError(
            f"no corpus {unknown[0]!r} in WMT 2014; there are {', '.join(WMT14_CORPORA)}"
        )
    index = _index(root)
    languages = {"source": source_language, "target": target_language}

    def find(forms, **names):
        orders = (
            (source_language, target_language),
            (target_language, source_language),
        )
        asked = [
            tuple(
                name.format(pair=f"{one}-{other}", both=one + other, **languages, **names)
                for name in form
            )
            for form in forms
            for one, other in orders
        ]
        return _find_pair(index, list(dict.fromkeys(asked)))

    train = [
        find([(WMT14_CORPORA[name] + ".{source}", WMT14_CORPORA[name] + ".{target}")])
        for name in corpora
    ]
    valid = [find(WMT14_NEWS, year=f"newstest{year}") for year in (2012, 2013)]
    test = find(WMT14_NEWS, year="newstest2014")
    missing = [pair for pair in (*train, test) if isinstance(pair, str)]
    if all(isinstance(pair, str) for pair in valid):
        missing += valid
    if missing:
        raise TextError(
            f"{root}: these files of WMT 2014 are missing below it: {'; '.join(missing)}"
        )

    def files(pairs):
        pairs = [pair for pair in pairs if not isinstance(pair, str)]
        return ParallelFiles(*map(list, zip(*pairs, strict=True)), *languages.values())

    return ParallelSplits(files(train), files(valid), files([test]))


def _index(root):
    """Returns, for each directory below `root`, the set of its files, in a fixed order."""
    found = {}
    for directory, directories, files in os.walk(root):
        directories.sort()
        found[directory] = set(files)
    return found


def _find_pair(index, asked):
    """Returns the paths of the first pair of names that is there; else a string of those asked."""
    for names in asked:
        pairs = []
        for directory, files in index.items():
            pair = [
                next((os.path.join(directory, n) for n in (name, name + ".gz") if n in files), None)
                for name in names
            ]
            if None not in pair:
                pairs.append(tuple(pair))
        full = [pair for pair in pairs if "test-full" in pair[0].split(os.sep)]
        pairs = full if len(pairs) > 1 and full else pairs
        if len(pairs) > 1:
            raise TextError(f"{pairs[0][0]} and {pairs[1][0]}: there are two; remove one of them")
        if pairs:
            return pairs[0]
    return " or ".join(f"{source} and {target}" for source, target in asked)


def read_sgm(path):
    """Returns the segments of an `.sgm` file of a WMT test set, in their order, as UTF-8 bytes.

    A segment is what stands between `<seg id="…">` and `</seg>`, with HTML entities replaced and
    each run of white space, line ends too, as one space. Nothing else in the file is looked at.

    Raises:
        TextError: if there is no segment, one does not end, or the file is not UTF-8.
    """
    with _open(path) as file:
        content = _checked(file.read(), path, None)
    segments = []
    for part in re.split(rb"<seg\b[^>]*>", content, flags=re.IGNORECASE)[1:]:
        text, end, _ = re.sub(rb"</seg\s*>", b"</seg>", part, flags=re.IGNORECASE).partition(
            b"</seg>"
        )
        if not end:
            raise TextError(f"{path}: segment {len(segments) + 1} has no end </seg>")
        text = html.unescape(text.decode("utf-8")).encode("utf-8")
        segments.append(b" ".join(text.split()))
    if not segments:
        raise TextError(f"{path}: no <seg> in the file; is it an .sgm file of a test set?")
    return segments


def is_sgm(path):
    """Whether a path names an `.sgm` file, plain or gzip."""
    return os.fspath(path).removesuffix(".gz").endswith(".sgm")


@contextlib.contextmanager
def _open(path):
    opener = gzip.open if os.fspath(path).endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            yield file
    except FileNotFoundError:
        raise TextError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TextError(f"{path}: damaged gzip file: {error}") from error


def _checked(text, path, number):
    """Returns bytes without byte order mark, if they are UTF-8. `number`: of a line, or `None`."""
    if text.isascii():
        return text
    try:
        text.decode("utf-8")
    except UnicodeDecodeError as error:
        line, start = number, error.start
        if number is None:
            line = text.count(b"\n", 0, start) + 1
            start -= text.rfind(b"\n", 0, start) + 1
        raise TextError(
            f"{path}:{line}:{start + 1}: byte 0x{text[error.start]:02x} is not valid UTF-8"
            f" ({error.reason}); convert the file to UTF-8, for example with iconv"
        ) from None
    return text.removeprefix(BYTE_ORDER_MARK)


def _sentences(path):
    """Yields every line of a file as a sentence, as bytes; blank lines as `b""`."""
    if is_sgm(path):
        yield from read_sgm(path)
        return
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            yield b" ".join(_checked(line, path, number).replace(b"\r", b"").split())


def _pairs(source, target):
    """Yields `(number from 1, source, target)` of a pair of files, as bytes, blank sides too."""
    sources, targets = _sentences(source), _sentences(target)
    number = 0
    for number, pair in enumerate(itertools.zip_longest(sources, targets), 1):
        if None in pair:
            rest = sum(1 for _ in (targets if pair[0] is None else sources))
            counts = (number - 1, number + rest)
            counts = counts if pair[0] is None else counts[::-1]
            raise TextError(
                f"{source} has {counts[0]} lines, but {target} has {counts[1]}: line n of the one"
                " must be the translation of line n of the other"
            )
        yield number, *pair
    if not number:
        raise TextError(f"{source}, {target}: the files are empty; they must hold sentences")


def _usable(source, target, empty):
    """Yields `(source, target)` of a pair of files, or `None` for a pair that is left out."""
    if empty not in ("error", "skip"):
        raise ValueError(f"empty must be 'error' or 'skip'; it is {empty!r}")
    for number, *pair in _pairs(source, target):
        if all(pair):
            yield pair
        elif empty == "skip":
            yield None
        else:
            blank = target if pair[0] else source
            place = f"{blank}, segment {number}" if is_sgm(blank) else f"{blank}:{number}"
            raise TextError(
                f"{place}: nothing is here, so the other side has no translation; remove it from"
                " both files, or leave such pairs out with empty='skip'"
            )


def sentence_pairs(files, empty="error"):
    """Yields `(source, target)`, strings, for every pair of sentences, in the order of the files.

    Args:
        files: a `ParallelFiles`.
        empty: what to do with a pair of which a side is blank: "error", or "skip" to leave it out.

    Raises:
        ValueError: if `empty` is something else.
        TextError: on a blank side, if `empty` is "error"; if two files differ in their numbers of
            lines; on invalid UTF-8 or a damaged gzip file.
    """
    for source, target in files.file_pairs:
        for pair in _usable(source, target, empty):
            if pair:
                yield pair[0].decode("utf-8"), pair[1].decode("utf-8")


def survey_parallel(files, subwords=None, empty="error"):
    """Reads parallel text once, from beginning to end, checks it and counts.

    Memory does not grow with the text.

    Args:
        files: a `ParallelFiles`.
        subwords: a `Subwords`, to count pieces. `None`: `lengths` is `None`.
        empty: as for `sentence_pairs`.

    Returns:
        A `ParallelSurvey`.

    Raises:
        ValueError: if `empty` is not known.
        TextError: as `sentence_pairs`; if a pair of files has no pair with words on both sides.
    """
    empties, words, lengths = 0, [0, 0], []
    pairs = 0
    for source, target in files.file_pairs:
        counter, before = collections.Counter(), pairs
        every = _usable(source, target, empty)
        while chunk := list(itertools.islice(every, PAIRS_AT_A_TIME)):
            kept = [pair for pair in chunk if pair]
            empties += len(chunk) - len(kept)
            pairs += len(kept)
            sides = list(zip(*kept, strict=True)) if kept else []
            for side, texts in enumerate(sides):
                words[side] += sum(text.count(b" ") + 1 for text in texts)
            if subwords is not None and kept:
                counter.update(
                    zip(*(subwords.encoded_lengths(list(texts)) for texts in sides), strict=True)
                )
        if pairs == before:
            raise TextError(f"{source}, {target}: no pair of lines has words on both sides")
        lengths.append(counter)
    return ParallelSurvey(pairs, empties, *words, None if subwords is None else lengths)
