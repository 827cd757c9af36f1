"""Meanings, drawn at random, which `cldr_renderer` renders as sentences of many languages.

A meaning is a tuple of clauses, a clause a tuple of a kind and what the kind needs: numbers, dates,
codes of countries, currencies, languages and units, as CLDR has them. It is independent of any
language, so that its renderings are translations of each other.
"""

import datetime
import functools
import random

from tfmoe.extras import optional

numbers = optional("babel.numbers")

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
# num2words misspells Spanish ordinals from 11 to 19, and the Korean 20.
ORDINALS = (*range(1, 11), *range(21, 32))
FIRST_DAY = datetime.date(1990, 1, 1).toordinal()
LAST_DAY = datetime.date(2029, 12, 31).toordinal()
# Countries change their currencies; the text should not depend on the day on which it is made.
CURRENCIES_OF = datetime.date(2024, 1, 1)
UNITS_OF_TIME = ("second", "minute", "hour", "day", "week", "month", "year")


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
        unit = self.random.choice(UNITS_OF_TIME)
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
        return "price", self._country(), currency_of(self._country()), self._amount()

    def price_in_words(self):
        """An amount in the country's own currency."""
        country = self._country()
        return "price_in_words", country, currency_of(country), self._uninflected()

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


@functools.cache
def _country_weights():
    return [1 / (rank + 4) for rank in range(len(COUNTRIES))]


@functools.cache
def currency_of(country):
    """Returns the code of the currency of a country, as it was in January 2024."""
    return numbers.get_territory_currencies(country, CURRENCIES_OF, CURRENCIES_OF)[0]
