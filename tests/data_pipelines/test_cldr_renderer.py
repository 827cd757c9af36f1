import datetime
import re

import pytest

from tfmoe.data_pipelines.cldr_meanings import Meanings
from tfmoe.data_pipelines.cldr_renderer import Renderer
from tfmoe.data_pipelines.corpora.embedded_translation import LANGUAGES

DAY = datetime.date(2015, 3, 5).toordinal()
RENDERED = {
    "dates": (
        (("moment", DAY, 15 * 60 + 7), ("dated_distance", DAY, "day", -3), ("distance", "week", 1)),
        {
            "en": "Thursday, March 5, 2015, 3:07 PM; Thursday, March 5, 2015 (3 days ago); "
            "in 1 week.",
            "fr": "jeudi 5 mars 2015, 15:07 ; jeudi 5 mars 2015 (il y a 3 jours) ; dans 1 semaine.",
            "de": "Donnerstag, 5. März 2015, 15:07; Donnerstag, 5. März 2015 (vor 3 Tagen); "
            "in 1 Woche.",
            "es": "jueves, 5 de marzo de 2015, 15:07; jueves, 5 de marzo de 2015 (hace 3 días); "
            "dentro de 1 semana.",
            "pt": "quinta-feira, 5 de março de 2015 15:07; quinta-feira, 5 de março de 2015 "
            "(há 3 dias); em 1 semana.",
            "ja": "2015年3月5日木曜日 15:07；2015年3月5日木曜日 (3 日前)；1 週間後。",
            "ko": "2015년 3월 5일 목요일 오후 3:07; 2015년 3월 5일 목요일 (3일 전); 1주 후.",
        },
    ),
    "measures": (
        (
            ("interval", DAY, DAY + 4),
            ("measures", ("duration-day", 2), ("concentr-percent", 21)),
            ("measure_of", "BR", "length-kilometer", 1234),
            ("measure_in_words", "speed-kilometer-per-hour", 17),
        ),
        {
            "en": "Mar 5 – 9, 2015; 2 days and 21 percent; Brazil: 1,234 kilometers; "
            "seventeen kilometers per hour.",
            "fr": "5–9 mars 2015 ; 2 jours et 21 pour cent ; Brésil : 1 234 kilomètres ; "
            "dix-sept kilomètres par heure.",
            "de": "5.–9. März 2015; 2 Tage und 21 Prozent; Brasilien: 1.234 Kilometer; "
            "siebzehn Kilometer pro Stunde.",
            "es": "5–9 mar 2015; 2 días y 21 por ciento; Brasil: 1.234 kilómetros; "
            "diecisiete kilómetros por hora.",
            "pt": "5 – 9 de mar. de 2015; 2 dias e 21 por cento; Brasil: 1.234 quilômetros; "
            "dezessete quilômetros por hora.",
            "ja": "2015年3月5日～9日；2 日、21 パーセント；ブラジル：1,234 キロメートル；"
            "時速 十七 キロメートル。",
            "ko": "2015년 3월 5일~9일; 2일 및 21%; 브라질: 1,234킬로미터; 시속 십칠킬로미터.",
        },
    ),
    "money": (
        (("price", "FR", "USD", 3000), ("price_in_words", "MX", "MXN", 16), ("fact", "BE")),
        {
            "en": "France: 3,000 US dollars; Mexico: sixteen Mexican pesos; "
            "Belgium: Dutch and French (Euro).",
            "fr": "France : 3 000 dollars des États-Unis ; Mexique : seize pesos mexicains ; "
            "Belgique : néerlandais et français (euro).",
            "de": "Frankreich: 3.000 US-Dollar; Mexiko: sechzehn Mexikanische Pesos; "
            "Belgien: Niederländisch und Französisch (Euro).",
            "es": "Francia: 3.000 dólares estadounidenses; México: dieciséis pesos mexicanos; "
            "Bélgica: neerlandés y francés (euro).",
            "pt": "França: 3.000 Dólares americanos; México: dezesseis Pesos mexicanos; "
            "Bélgica: holandês e francês (Euro).",
            "ja": "フランス：3,000米ドル；メキシコ：十六メキシコ ペソ；"
            "ベルギー：オランダ語、フランス語 (ユーロ)。",
            "ko": "프랑스: 3,000 미국 달러; 멕시코: 십육 멕시코 페소; "
            "벨기에: 네덜란드어 및 프랑스어 (유로).",
        },
    ),
    "words": (
        (
            ("number", 4017),
            ("number_words", 7, 80),
            ("ordinals", 1, 22, 3),
            ("names", "standard", "country", "ES", "IT"),
            ("names", "or", "month", 9, 10),
        ),
        {
            "en": "4,017 (four thousand and seventeen); seven and eighty; "
            "first, twenty-second, and third; Spain and Italy; September or October.",
            "fr": "4 017 (quatre mille dix-sept) ; sept et quatre-vingts ; "
            "premier, vingt-deuxième et troisième ; Espagne et Italie ; septembre ou octobre.",
            "de": "4.017 (viertausendsiebzehn); sieben und achtzig; "
            "erste, zweiundzwanzigste und dritte; Spanien und Italien; September oder Oktober.",
            "es": "4.017 (cuatro mil diecisiete); siete y ochenta; "
            "primero, vigésimo segundo y tercero; España e Italia; septiembre u octubre.",
            "pt": "4.017 (quatro mil e dezessete); sete e oitenta; "
            "primeiro, vigésimo segundo e terceiro; Espanha e Itália; setembro ou outubro.",
            "ja": "4,017 (四千十七)；七、八十；一番目、二十二番目、三番目；スペイン、イタリア；"
            "9月または10月。",
            "ko": "4,017 (사천십칠); 칠 및 팔십; 첫 번째, 스물두 번째 및 세 번째; "
            "스페인 및 이탈리아; 9월 또는 10월.",
        },
    ),
}


@pytest.mark.parametrize("name", RENDERED)
@pytest.mark.parametrize("language", LANGUAGES)
def test_rendering(name, language):
    meaning, expected = RENDERED[name]
    assert Renderer(language).sentence(meaning) == expected[language]


@pytest.mark.parametrize("language", LANGUAGES)
def test_characters(language):
    renderer, meanings = Renderer(language), Meanings(0)
    for _ in range(2000):
        line = renderer.sentence(meanings.meaning())
        assert line.isprintable()  # of spaces, only the plain one is
        assert line == " ".join(line.split(" "))
        assert line.strip() == line and "  " not in line
        assert not re.search("duration-|length-|mass-|concentr-", line)


def test_a_source_has_one_target():
    meanings = Meanings(0)
    clauses = {clause for _ in range(2000) for clause in meanings.meaning()}
    for language in LANGUAGES:
        renderer = Renderer(language)
        assert len({renderer.sentence((clause,)) for clause in clauses}) == len(clauses)
