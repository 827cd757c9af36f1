import datetime
import json
import pathlib
import re

import pytest

from data_pipelines import embedded_translation, parallel_sentences
from data_pipelines.embedded_translation import PARTS, write_embedded_translation
from data_pipelines.parallel_sentences import LANGUAGES, Meanings, Renderer

SIZES = {"sentences": 600, "valid_sentences": 60, "test_sentences": 60}
PAIRS = (("en", "fr"), ("fr", "en"), ("en", "de"), ("ja", "en"))
DAY = datetime.date(2015, 3, 5).toordinal()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = tmp_path_factory.mktemp("corpus")
    return directory, write_embedded_translation(directory, pairs=PAIRS, seed=1, **SIZES)


def read(prefix, language):
    return pathlib.Path(f"{prefix}.{language}").read_text(encoding="utf-8").splitlines()


def unordered(prefixes):
    return [pair for pair in prefixes if pair[0] < pair[1]]


def test_files(corpus):
    directory, prefixes = corpus
    assert set(prefixes) == {
        ("en", "fr"), ("fr", "en"), ("de", "en"), ("en", "de"), ("en", "ja"), ("ja", "en"),
    }  # fmt: skip
    assert prefixes["en", "de"] == prefixes["de", "en"]
    assert prefixes["en", "de"]["train"] == str(directory / "train.de-en")
    names = {
        f"{part}.{'-'.join(pair)}.{language}"
        for part in PARTS
        for pair in unordered(prefixes)
        for language in pair
    }
    assert {file.name for file in directory.iterdir()} == {*names, "corpus.json"}
    counts = json.loads((directory / "corpus.json").read_text())["counts"]
    for pair in unordered(prefixes):
        for part, size in zip(PARTS, SIZES.values(), strict=True):
            count = counts["-".join(pair)][part]
            assert count["sentences"] == size
            for language in pair:
                lines = read(prefixes[pair][part], language)
                assert len(lines) == len(set(lines)) == size
                assert count["words"][language] == sum(len(line.split()) for line in lines)
                assert max(len(line.split()) for line in lines) <= 40


def test_no_sentence_is_in_two_parts(corpus):
    _, prefixes = corpus
    found = {(part, language): set() for part in PARTS for language in LANGUAGES}
    for pair in unordered(prefixes):
        for part in PARTS:
            for language in pair:
                found[part, language].update(read(prefixes[pair][part], language))
    for language in LANGUAGES:
        train, valid, test = (found[part, language] for part in PARTS)
        assert not train & valid and not train & test and not valid & test
    # Different draws for each pair.
    english = [set(read(prefixes["en", other]["train"], "en")) for other in ("fr", "de")]
    assert len(english[0] & english[1]) < 60


def test_lines_are_translations(corpus):
    # Years are the same figures in all languages.
    _, prefixes = corpus
    year = re.compile(r"(?<!\d)(?:199|200|201|202)\d(?!\d)")
    for pair in unordered(prefixes):
        lines = [read(prefixes[pair]["train"], language) for language in pair]
        years = [[sorted(year.findall(line)) for line in side] for side in lines]
        assert years[0] == years[1]
        assert sum(map(bool, years[0])) > 200


def test_same_parameters_same_files_and_reuse(corpus, tmp_path):
    directory, _ = corpus
    again = write_embedded_translation(tmp_path, pairs=PAIRS[::-1], seed=1, **SIZES)
    for file in directory.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()

    changed = pathlib.Path(again["en", "fr"]["train"] + ".fr")
    changed.write_text("changed\n")
    write_embedded_translation(tmp_path, pairs=PAIRS, seed=1, **SIZES)
    assert changed.read_text() == "changed\n"
    pathlib.Path(again["en", "ja"]["test"] + ".ja").unlink()
    write_embedded_translation(tmp_path, pairs=PAIRS, seed=1, **SIZES)
    assert changed.read_bytes() == (directory / changed.name).read_bytes()
    write_embedded_translation(tmp_path, pairs=PAIRS[:1], seed=2, **SIZES)
    assert changed.read_bytes() != (directory / changed.name).read_bytes()


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


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"pairs": ()}, "pairs must not be empty"),
        ({"pairs": [("en", "it")]}, "unknown language 'it'; the languages are en, fr, de, es, pt"),
        ({"pairs": [("en", "en")]}, r"pairs: the two languages of a pair must differ; one is \('e"),
        ({"pairs": ["en-fr"]}, "pairs: a pair must be two languages; one is 'en-fr'"),
        ({"sentences": 0}, "^sentences must be at least 1; it is 0"),
        ({"valid_sentences": 0}, "valid_sentences must be at least 1; it is 0"),
        ({"test_sentences": -1}, "test_sentences must be at least 1; it is -1"),
    ],
)
def test_arguments_are_checked(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        write_embedded_translation(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())


def test_an_exhausted_space(tmp_path, monkeypatch):
    monkeypatch.setattr(embedded_translation, "MOST_DRAWS", 5000)
    monkeypatch.setattr(parallel_sentences, "KINDS", (Meanings.fact,))
    monkeypatch.setattr(Meanings, "_country", lambda self: self.random.choice(("FR", "DE")))
    with pytest.raises(ValueError, match="600 sentences are wanted, but there are only about"):
        write_embedded_translation(tmp_path, sentences=600, valid_sentences=1, test_sentences=1)
    assert not (tmp_path / "corpus.json").exists()
