"""The news translation task of WMT 2014 as its organisers publish it.

The archives of statmt.org are expected below one directory, unpacked, in any directories, each file
plain or gzip: `training-parallel-europarl-v7`, `-commoncrawl` and `-nc-v9`, for French also
`training-parallel-un` and `training-giga-fren`, and `dev` and `test-full`. newstest2012 and
newstest2013 are for validation (at least one must be there), newstest2014 is for the test; they may
be plain text or `.sgm` files. If the test is there twice, that in a directory `test-full` is taken.
"""

import dataclasses
import os

from tfmoe.data_pipelines.corpora.corpus import ParallelCorpus, not_two_languages
from tfmoe.data_pipelines.parallel_files import ParallelFiles
from tfmoe.data_pipelines.reading import TextError
from tfmoe.data_pipelines.splits import Splits

TRAINING = ("europarl-v7.{pair}", "commoncrawl.{pair}", "news-commentary-v9.{pair}")
TRAINING_FRENCH = (
    "europarl-v7.{pair}",
    "commoncrawl.{pair}",
    "undoc.2000.{pair}",
    "news-commentary-v9.{pair}",
    "giga-fren.release2.fixed",
)
NEWS = (
    ("{year}.{source}", "{year}.{target}"),
    ("{year}.{pair}.{source}", "{year}.{pair}.{target}"),
    ("{year}-{both}.{source}", "{year}-{both}.{target}"),
    ("{year}-{both}-src.{source}.sgm", "{year}-{both}-ref.{target}.sgm"),
    ("{year}-src.{source}.sgm", "{year}-ref.{target}.sgm"),
    ("{year}-src.{source}.sgm", "{year}-src.{target}.sgm"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wmt14(ParallelCorpus):
    """The data of WMT'14 as its organisers publish them, unpacked. Their pairs with an empty
    side are skipped.

    Args:
        root: the directory that they are anywhere below.
        source_language, target_language: en and fr, or en and de, in either order, or others that
            have such files.
    """

    empty_sides = "skip"

    root: str
    source_language: str = "en"
    target_language: str

    def problems(self):
        yield from not_two_languages(self)

    @property
    def language_pairs(self):
        return [(self.source_language, self.target_language)]

    def splits(self, directory):
        """Raises `TextError` if files are missing or ambiguous, with the expected names."""
        root = os.path.expanduser(self.root)
        if not os.path.isdir(root):
            raise TextError(f"{root}: no such directory")
        index = _index(root)
        names = TRAINING_FRENCH if "fr" in self.language_pairs[0] else TRAINING
        train = [
            _find_pair(index, self._names([(f"{name}.{{source}}", f"{name}.{{target}}")]))
            for name in names
        ]
        news = {
            year: _find_pair(index, self._names(NEWS, year=f"newstest{year}"))
            for year in (2012, 2013, 2014)
        }
        valid, test = [news[2012], news[2013]], [news[2014]]
        missing = [pair for pair in (*train, *test) if isinstance(pair, str)]
        if all(isinstance(pair, str) for pair in valid):
            missing += valid
        if missing:
            raise TextError(
                f"{root}: these files of WMT 2014 are missing below it: {'; '.join(missing)}"
            )
        return Splits(*([self._files(pairs)] for pairs in (train, valid, test)))

    def _names(self, forms, **values):
        """Returns pairs of names from their patterns, with the languages in either order."""
        languages = {"source": self.source_language, "target": self.target_language}
        orders = list(languages.values()), list(languages.values())[::-1]
        names = [
            tuple(
                side.format(pair=f"{one}-{other}", both=one + other, **languages, **values)
                for side in form
            )
            for form in forms
            for one, other in orders
        ]
        return list(dict.fromkeys(names))

    def _files(self, pairs):
        """Returns the `ParallelFiles` of pairs of paths; a string is a missing pair."""
        existing = [pair for pair in pairs if not isinstance(pair, str)]
        return ParallelFiles(*map(list, zip(*existing, strict=True)), *self.language_pairs[0])


def _index(root):
    """Returns, for each directory below `root`, the set of its files, in a fixed order."""
    index = {}
    for directory, directories, files in os.walk(root):
        directories.sort()
        index[directory] = set(files)
    return index


def _find_pair(index, names):
    """Returns the paths of the first pair of names that exists; else a string of the names.

    Args:
        index: what `_index` returns.
        names: list of pairs of names.
    """
    for pair in names:
        matches = []
        for directory, files in index.items():
            paths = [
                next((os.path.join(directory, n) for n in (name, name + ".gz") if n in files), None)
                for name in pair
            ]
            if None not in paths:
                matches.append(tuple(paths))
        full = [paths for paths in matches if "test-full" in paths[0].split(os.sep)]
        matches = full if len(matches) > 1 and full else matches
        if len(matches) > 1:
            raise TextError(f"{matches[0][0]} and {matches[1][0]}: two copies; remove one of them")
        if matches:
            return matches[0]
    return " or ".join(f"{source} and {target}" for source, target in names)
