"""Renders meanings (see `cldr_meanings`) as sentences, by Babel's copy of CLDR and by num2words."""

import datetime
import functools
import re

from tfmoe.data_pipelines.cldr_meanings import currency_of
from tfmoe.extras import optional

babel, num2words = optional("babel"), optional("num2words")
dates, lists = optional("babel.dates"), optional("babel.lists")
languages, numbers = optional("babel.languages"), optional("babel.numbers")
units = optional("babel.units")

STEPS = {
    "second": datetime.timedelta(seconds=1),
    "minute": datetime.timedelta(minutes=1),
    "hour": datetime.timedelta(hours=1),
    "day": datetime.timedelta(days=1),
    "week": datetime.timedelta(weeks=1),
    "month": datetime.timedelta(days=30),  # as Babel has it
    "year": datetime.timedelta(days=365),
}
# What CLDR has no pattern for: after a name, between clauses, at the end.
PUNCTUATION = {"fr": (" : ", " ; ", "."), "ja": ("：", "；", "。")}
NUMBER_WORDS = {"pt": "pt_BR"}  # CLDR's "pt" is that of Brazil
_UNWANTED = {
    **dict.fromkeys(map(ord, "\u00a0\u2009\u202f"), " "),  # no-break and thin spaces
    **dict.fromkeys(map(ord, "\u200e\u200f\u061c\u00ad"), None),  # marks without width
}


class Renderer:
    """Renders meanings in one language.

    Args:
        language: a CLDR locale that num2words has too; `corpora.embedded_translation.LANGUAGES` are
            those whose sentences were checked.
    """

    def __init__(self, language):
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
        currency = self.locale.currencies[currency_of(country)]
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


@functools.cache
def _languages(country):
    return languages.get_official_languages(country, de_facto=True)[:2]
