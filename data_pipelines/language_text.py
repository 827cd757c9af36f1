"""Sentences in many languages, composed of the names and patterns in Babel's copy of CLDR."""

import datetime
import functools
import random

from tfmoe.data_pipelines.tokenization import tokenize
from tfmoe.extras import optional

PACKAGES = "babel", "num2words"
babel, num2words = optional("babel"), optional("num2words")
core, dates = optional("babel.core"), optional("babel.dates")
languages, lists = optional("babel.languages"), optional("babel.lists")
numbers, units = optional("babel.numbers"), optional("babel.units")

# (larger unit, smaller unit, how many): a sentence states a measure in both.
LADDERS = (
    ("duration-hour", "duration-minute", 60),
    ("duration-minute", "duration-second", 60),
    ("duration-week", "duration-day", 7),
    ("duration-year", "duration-month", 12),
    ("duration-day", "duration-hour", 24),
    ("duration-century", "duration-year", 100),
    ("length-kilometer", "length-meter", 1000),
    ("length-meter", "length-centimeter", 100),
    ("mass-kilogram", "mass-gram", 1000),
    ("mass-tonne", "mass-kilogram", 1000),
    ("volume-liter", "volume-milliliter", 1000),
    ("digital-gigabyte", "digital-megabyte", 1000),
)
MEASURES = (
    "length-kilometer", "length-meter", "length-mile", "length-foot", "length-light-year",
    "mass-kilogram", "mass-pound", "mass-tonne", "volume-liter", "volume-gallon", "area-hectare",
    "area-square-kilometer", "area-square-mile", "temperature-celsius", "temperature-fahrenheit",
    "energy-kilocalorie", "energy-joule", "power-watt", "power-horsepower", "pressure-bar",
    "speed-kilometer-per-hour", "speed-meter-per-second", "speed-mile-per-hour", "duration-second",
    "duration-minute", "duration-hour", "duration-day", "duration-week", "duration-month",
    "duration-year", "electric-volt", "electric-ampere", "frequency-hertz", "digital-byte",
    "angle-degree",
)  # fmt: skip
NOT_COUNTRIES = frozenset({"EU", "EZ", "QO", "UN", "XA", "XB", "ZZ"})
MOST_REPEATS = 200  # in a row, before a language counts as exhausted


def language_sentences(language, seed):
    """Yields different sentences of one language.

    A sentence is one to three clauses: a fact of a country (its languages, currency and a city), a
    sum of money in words, a measure in words and in figures or in two units, a date with its
    distance from today, a sequence of months, weekdays or numbers. Much of it follows from what
    went before, and the facts are the same in all languages; what is drawn at random is drawn from
    few or skewed choices.

    Args:
        language: a CLDR locale such as `"de"` or `"pt_BR"`.
        seed: integer.

    Yields:
        Lists of lower-case words and punctuation marks.

    Raises:
        ValueError: if Babel does not know the language.
    """
    clauses = _Clauses(language, seed)
    seen, repeats = set(), 0
    while repeats < MOST_REPEATS:
        words = tokenize(clauses.sentence())
        key = " ".join(words)
        if key in seen:
            repeats += 1
            continue
        seen.add(key)
        repeats = 0
        yield words


def is_known(language):
    """Whether Babel knows a language."""
    try:
        babel.Locale.parse(language)
    except (ValueError, TypeError, babel.UnknownLocaleError):
        return False
    return True


class _Clauses:
    """Draws clauses of one language."""

    def __init__(self, language, seed):
        if not is_known(language):
            raise ValueError(
                f"language must be a locale that Babel knows, such as 'de', got {language!r}"
            )
        self.locale = babel.Locale.parse(language)
        self.random = random.Random(f"{seed} {language}")
        self.countries = _countries(seed)
        self.weights = [1 / (rank + 4) for rank in range(len(self.countries))]
        self.kinds = [
            self.fact,
            self.money,
            self.measure,
            self.conversion,
            self.date,
            self.sequence,
        ]
        self.measures = [name for name in MEASURES if self._has_unit(name)]
        self.ladders = [
            step for step in LADDERS if self._has_unit(step[0]) and self._has_unit(step[1])
        ]
        for needed, kind in ((self.measures, self.measure), (self.ladders, self.conversion)):
            if not needed:
                self.kinds.remove(kind)
        # Methods draw, functions format: the formatting of equal arguments is remembered.
        self.words = functools.lru_cache(None)(self._words)
        self.unit = functools.lru_cache(100_000)(self._unit)

    def sentence(self):
        draw = self.random.random
        count = 1 + (draw() < 0.6) + (draw() < 0.3)
        return "; ".join(self.random.choice(self.kinds)() for _ in range(count)) + "."

    def fact(self):
        country = self._country()
        known = [
            self.locale.languages[code]
            for code in _languages(country)
            if code in self.locale.languages
        ]
        parts = [self._list(known)] if known else []
        parts.append(self.locale.currencies.get(_currency(country), ""))
        parts.append(_city(country, self.locale))
        return f"{self.locale.territories[country]}: {', '.join(filter(None, parts))}"

    def money(self):
        country, amount = self._country(), self._number()
        if self.random.random() < 0.3:
            amount *= self.random.choice((10, 100))
        name = numbers.get_currency_name(_currency(country), amount, self.locale)
        return f"{self.locale.territories[country]}: {self.words(amount)} {name}"

    def measure(self):
        name, amount = self.random.choice(self.measures), self._number()
        return f"{self.unit(amount, name, True)}, {self.unit(amount, name, False)}"

    def conversion(self):
        large, small, factor = self.random.choice(self.ladders)
        amount = self._number()
        spelled = self.random.random() < 0.5
        return f"{self.unit(amount, large, spelled)}, {self.unit(factor * amount, small, False)}"

    def date(self):
        days = self._number() * self.random.choice((-1, 1))
        day = datetime.date(2015, 1, 1) + datetime.timedelta(days=self.random.randrange(3650))
        distance = dates.format_timedelta(
            datetime.timedelta(days=days), locale=self.locale, add_direction=True
        )
        return f"{dates.format_date(day, 'full', self.locale)}, {distance}"

    def sequence(self):
        kind, count = self.random.randrange(3), self.random.randrange(3, 7)
        if kind == 0:
            names = self._names(self.locale.months)
        elif kind == 1:
            names = self._names(self.locale.days)
        else:
            names = [self.words(number) for number in range(1, 100)]
        start = self.random.randrange(len(names))
        return self._list([names[(start + step) % len(names)] for step in range(count)])

    def _country(self):
        return self.random.choices(self.countries, self.weights)[0]

    def _number(self):
        """A number from 1 to 99, the small ones more often."""
        return 1 + int(self.random.expovariate(0.08)) % 99

    def _list(self, names):
        return lists.format_list(names, locale=self.locale)

    def _names(self, calendar):
        """Months or weekdays in their order, as in dates (`stand-alone` forms are unsafe: where a
        language has none, Babel gives those of another one that was loaded before)."""
        names = calendar["format"]["wide"]
        return [names[index] for index in sorted(names)]

    def _has_unit(self, name):
        """Whether the language has a long form of the unit for all plurals that can occur."""
        return not any(
            name in units.format_unit(amount, name, locale=self.locale)
            for amount in (1, 2, 3, 5, 11, 20)
        )

    def _words(self, number):
        """The number spelled out, or in figures where num2words does not have the language."""
        for code in (str(self.locale), self.locale.language):
            try:
                return num2words.num2words(number, lang=code)
            except (NotImplementedError, IndexError, KeyError, OverflowError):
                continue
        return str(number)

    def _unit(self, amount, name, spelled):
        text = units.format_unit(amount, name, locale=self.locale)
        return (
            text.replace(numbers.format_decimal(amount, locale=self.locale), self.words(amount))
            if spelled
            else text
        )


@functools.cache
def _countries(seed):
    """Country codes with a currency, in an order by the seed, which is the same for all
    languages.
    """
    codes = [
        code
        for code in sorted(babel.Locale("en").territories)
        if len(code) == 2 and code not in NOT_COUNTRIES and _currency(code)
    ]
    random.Random(f"{seed} countries").shuffle(codes)
    return codes


@functools.cache
def _currency(country):
    return next(iter(numbers.get_territory_currencies(country)), None)


@functools.cache
def _languages(country):
    return languages.get_official_languages(country, regional=True, de_facto=True)[:4]


@functools.cache
def _city(country, locale):
    """The city that names the country's first time zone, or ""."""
    zones = sorted(
        zone for zone, place in core.get_global("zone_territories").items() if place == country
    )
    return dates.get_timezone_location(zones[0], locale=locale, return_city=True) if zones else ""
