"""The same meanings in seven languages, rendered by Babel's copy of CLDR and by num2words.

A meaning is a tuple of clauses, a clause a tuple of a kind and what the kind needs: numbers, dates,
codes of countries, currencies, languages and units. It is independent of any language, so that its
renderings are translations of each other.
"""

import datetime
import functools
import random
import re

import babel
import num2words
from babel import dates, lists, numbers, units
from babel.languages import get_official_languages

LANGUAGES = ("en", "fr", "de", "es", "pt", "ja", "ko")
# Roughly the best known first: earlier ones are drawn more often.
COUNTRIES = (
    "US", "CN", "IN", "JP", "DE", "GB", "FR", "BR", "IT", "CA", "RU", "MX", "KR", "ES", "ID", "TR",
    "AU", "NL", "SA", "PL", "SE", "BE", "TH", "AT", "NG", "EG", "ZA", "AR", "PH", "VN", "PK", "BD",
    "DK", "IE", "IL", "FI", "PT", "GR", "CZ", "RO", "NZ", "PE", "CL", "CO", "UA", "HU", "KE", "MA",
    "MY", "ET", "IS", "EC", "CU", "TN", "KZ", "LK", "NP", "BO", "JO", "TZ",
)  # fmt: skip
SPOKEN = (
    "en", "zh", "es", "hi", "ar", "fr", "de", "ja", "pt", "ru", "ko", "it", "tr", "nl", "pl", "vi",
    "id", "th", "sv", "el", "he", "uk", "ro", "cs", "da", "fi", "hu", "bn", "ur", "fa",
)  # fmt: skip
MEASURES = (
    "length-kilometer", "length-meter", "length-mile", "length-foot", "length-centimeter",
    "mass-kilogram", "mass-gram", "mass-pound", "mass-tonne", "volume-liter", "volume-gallon",
    "area-hectare", "area-square-kilometer", "area-square-mile", "temperature-celsius",
    "temperature-fahrenheit", "energy-kilocalorie", "power-watt", "speed-kilometer-per-hour",
    "speed-meter-per-second", "speed-mile-per-hour", "electric-volt", "digital-byte",
)  # fmt: skip
PERCENT = "concentr-percent"  # a sign in Korean, which cannot follow a number in words
DURATIONS = (  # (unit, smaller unit, how many)
    ("year", "month", 12), ("week", "day", 7), ("day", "hour", 24), ("hour", "minute", 60),
    ("minute", "second", 60),
)  # fmt: skip
STEPS = {
    "second": datetime.timedelta(seconds=1),
    "minute": datetime.timedelta(minutes=1),
    "hour": datetime.timedelta(hours=1),
    "day": datetime.timedelta(days=1),
    "week": datetime.timedelta(weeks=1),
    "month": datetime.timedelta(days=30),  # as Babel has it
    "year": datetime.timedelta(days=365),
}
# num2words misspells Spanish ordinals from 11 to 19, and the Korean 20.
ORDINALS = (*range(1, 11), *range(21, 32))
FIRST_DAY = datetime.date(1990, 1, 1).toordinal()
LAST_DAY = datetime.date(2029, 12, 31).toordinal()
# Countries change their currencies; the text should not depend on the day on which it is made.
CURRENCIES_OF = datetime.date(2024, 1, 1)
# What CLDR has no pattern for: after a name, between clauses, at the end.
PUNCTUATION = {"fr": (" : ", " ; ", "."), "ja": ("：", "；", "。")}
NUMBER_WORDS = {"pt": "pt_BR"}  # CLDR's "pt" is that of Brazil
_UNWANTED = {
    **dict.fromkeys(map(ord, "\u00a0\u2009\u202f"), " "),  # no-break and thin spaces
    **dict.fromkeys(map(ord, "\u200e\u200f\u061c\u00ad"), None),  # marks without width
}


class Meanings:
    """Draws meanings.

    Args:
        seed: anything that `random.Random` takes. The same gives the same meanings.
    """

    def __init__(self, seed):
        self.random = random.Random(seed)

    def meaning(self):
        """Returns the next meaning, a tuple of one to four clauses."""
        count = self.random.choices((1, 2, 3, 4), (1, 2, 4, 3))[0]
        return tuple(self.random.choice(KINDS)(self) for _ in range(count))

    def date(self):
        return "date", self._day()

    def moment(self):
        return "moment", self._day(), self._minute()

    def times(self):
        return "times", *(self._minute() for _ in range(self.random.randint(1, 3)))

    def interval(self):
        day = self._day()
        return "interval", day, day + self.random.choice((1, 1, 10)) * self.random.randint(1, 30)

    def distance(self):
        unit = self.random.choice(list(STEPS))
        return "distance", unit, self.random.choice((-1, 1)) * self._small()

    def dated_distance(self):
        _, unit, amount = self.distance()
        return "dated_distance", self._day(), unit, amount

    def duration(self):
        unit, smaller, most = self.random.choice(DURATIONS)
        parts = (f"duration-{unit}", self._small()), (f"duration-{smaller}", self._below(most))
        return "measures", *parts

    def measures(self):
        count = self.random.randint(1, 3)
        return "measures", *((self._measure(), self._amount()) for _ in range(count))

    def measure_of(self):
        return "measure_of", self._country(), self._measure(), self._amount()

    def measure_in_words(self):
        return "measure_in_words", self.random.choice(MEASURES), self._uninflected()

    def price(self):
        """An amount in the currency of any country."""
        return "price", self._country(), _currency(self._country()), self._amount()

    def price_in_words(self):
        """An amount in the country's own currency."""
        country = self._country()
        return "price_in_words", country, _currency(country), self._uninflected()

    def number(self):
        return "number", self._amount()

    def number_words(self):
        return "number_words", *(self._small() for _ in range(self.random.randint(2, 3)))

    def ordinals(self):
        return "ordinals", *self._different(ORDINALS)

    def names(self):
        kind, choices = self.random.choice(
            (
                ("country", COUNTRIES),
                ("country", COUNTRIES),
                ("language", SPOKEN),
                ("month", range(1, 13)),
                ("weekday", range(7)),
            )
        )
        style = self.random.choice(("standard", "standard", "or"))
        return "names", style, kind, *self._different(choices)

    def fact(self):
        return "fact", self._country()

    def _country(self):
        return self.random.choices(COUNTRIES, _country_weights())[0]

    def _measure(self):
        return self.random.choice((*MEASURES, PERCENT))

    def _day(self):
        return self.random.randint(FIRST_DAY, LAST_DAY)

    def _minute(self):
        return self.random.randrange(24 * 60)

    def _small(self):
        """A number from 1 to 99, the small ones more often."""
        return 1 + int(self.random.expovariate(0.06)) % 99

    def _below(self, most):
        return self.random.randint(1, most - 1)

    def _amount(self):
        """A number from 1 to 9999, mostly under 100."""
        draw = self.random.random()
        if draw < 0.75:
            return self._small()
        return self.random.randint(100, 999 if draw < 0.9 else 9999)

    def _uninflected(self):
        """A number whose words are the same before nouns of any gender."""
        while True:
            number = self._amount()
            if (
                (number % 10 not in (1, 2) or number % 100 in (11, 12))
                and number // 100 % 10 < 2
                and number // 1000 != 2
            ):
                return number

    def _different(self, choices):
        """Two to four different ones."""
        return self.random.sample(choices, self.random.randint(2, 4))


KINDS = (
    Meanings.date, Meanings.moment, Meanings.times, Meanings.interval, Meanings.distance,
    Meanings.dated_distance, Meanings.duration, Meanings.measures, Meanings.measure_of,
    Meanings.measure_in_words, Meanings.price, Meanings.price_in_words, Meanings.number,
    Meanings.number_words, Meanings.ordinals, Meanings.names, Meanings.names, Meanings.fact,
)  # fmt: skip


class Renderer:
    """Renders meanings in one language.

    Args:
        language: one of `LANGUAGES`.

    Raises:
        ValueError: if it is another.
    """

    def __init__(self, language):
        check_language(language)
        self.locale = babel.Locale.parse(language)
        self.after_name, self.between, self.end = PUNCTUATION.get(language, (": ", "; ", "."))
        self.number_language = NUMBER_WORDS.get(language, language)
        # The day period in full, because Korean abbreviates it in Latin letters.
        self.time_pattern = dates.get_time_format("short", self.locale).pattern.replace("a", "aaaa")
        self.moment_pattern = str(dates.get_datetime_format("full", self.locale))
        # Babel is slow: the formatting of equal arguments is remembered.
        for name in ("_time", "_full_date", "_distance", "_unit", "_money", "_figures", "_words"):
            setattr(self, name, functools.lru_cache(50_000)(getattr(self, name)))

    def sentence(self, meaning):
        """Returns a meaning as one line of text, as CLDR writes it; all spaces are plain."""
        clauses = (getattr(self, f"_render_{kind}")(*rest) for kind, *rest in meaning)
        return (self.between.join(clauses) + self.end).translate(_UNWANTED)

    def _render_date(self, day):
        return self._full_date(day)

    def _render_moment(self, day, minute):
        return self.moment_pattern.format(self._time(minute), self._full_date(day))

    def _render_times(self, *minutes):
        return self._list([self._time(minute) for minute in minutes])

    def _render_interval(self, first, last):
        first, last = datetime.date.fromordinal(first), datetime.date.fromordinal(last)
        return dates.format_interval(first, last, "yMMMd", locale=self.locale)

    def _render_distance(self, unit, amount):
        return self._distance(unit, amount)

    def _render_dated_distance(self, day, unit, amount):
        return f"{self._full_date(day)} ({self._distance(unit, amount)})"

    def _render_measures(self, *measures):
        return self._list([self._unit(amount, unit) for unit, amount in measures])

    def _render_measure_of(self, country, unit, amount):
        return self._after(country, self._unit(amount, unit))

    def _render_measure_in_words(self, unit, amount):
        return self._spelled(self._unit(amount, unit), amount)

    def _render_price(self, country, currency, amount):
        return self._after(country, self._money(amount, currency))

    def _render_price_in_words(self, country, currency, amount):
        return self._after(country, self._spelled(self._money(amount, currency), amount))

    def _render_number(self, number):
        return f"{self._figures(number)} ({self._words(number)})"

    def _render_number_words(self, *some):
        return self._list([self._words(number) for number in some])

    def _render_ordinals(self, *some):
        return self._list([self._words(number, "ordinal") for number in some])

    def _render_names(self, style, kind, *codes):
        # Of months and weekdays the forms in dates: where a language has no stand-alone forms,
        # Babel gives those of another one that was loaded before.
        names = {
            "country": self.locale.territories,
            "language": self.locale.languages,
            "month": self.locale.months["format"]["wide"],
            "weekday": self.locale.days["format"]["wide"],
        }[kind]
        return self._list([names[code] for code in codes], style)

    def _render_fact(self, country):
        spoken = [self.locale.languages[code] for code in _languages(country)]
        currency = self.locale.currencies[_currency(country)]
        return self._after(country, f"{self._list(spoken)} ({currency})")

    def _after(self, country, text):
        return f"{self.locale.territories[country]}{self.after_name}{text}"

    def _list(self, parts, style="standard"):
        text = lists.format_list(parts, style=style, locale=self.locale)
        if self.locale.language == "es":  # the rule of euphony, which Babel leaves out
            text = re.sub(r" y (?=h?[iíIÍ])", " e ", text)
            text = re.sub(r" o (?=h?[oóOÓ])", " u ", text)
        return text

    def _spelled(self, text, number):
        """The text with the number in words instead of figures."""
        return text.replace(self._figures(number), self._words(number))

    def _time(self, minute):
        time = datetime.time(*divmod(minute, 60))
        return dates.format_time(time, self.time_pattern, locale=self.locale)

    def _full_date(self, day):
        return dates.format_date(datetime.date.fromordinal(day), "full", self.locale)

    def _distance(self, unit, amount):
        return dates.format_timedelta(
            amount * STEPS[unit],
            granularity=unit,
            threshold=float("inf"),  # no larger unit
            add_direction=True,
            locale=self.locale,
        )

    def _unit(self, amount, unit):
        text = units.format_unit(amount, unit, locale=self.locale)
        if unit in text:  # no long form: by CLDR's rule of inheritance it is the short one
            text = units.format_unit(amount, unit, "short", locale=self.locale)
        return text

    def _money(self, amount, currency):
        return numbers.format_currency(
            amount, currency, locale=self.locale, format_type="name", currency_digits=False
        )

    def _figures(self, number):
        return numbers.format_decimal(number, locale=self.locale)

    def _words(self, number, form="cardinal"):
        return num2words.num2words(number, lang=self.number_language, to=form)


def check_language(language):
    """Raises `ValueError` if the language is not one of `LANGUAGES`."""
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; the languages are {', '.join(LANGUAGES)}")


@functools.cache
def _country_weights():
    return [1 / (rank + 4) for rank in range(len(COUNTRIES))]


@functools.cache
def _currency(country):
    return numbers.get_territory_currencies(country, CURRENCIES_OF, CURRENCIES_OF)[0]


@functools.cache
def _languages(country):
    return get_official_languages(country, de_facto=True)[:2]
