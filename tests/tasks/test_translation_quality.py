"""BLEU and chrF."""

import math

import pytest

from tfmoe.tasks.translation_quality import bleu, multi_bleu

TRANSLATIONS = ["the cat sat a on the mat", "we all like green tea"]
REFERENCES = ["the cat sat down on the mat again", "we all like green tea"]


def test_by_hand():
    # First sentence, 7 tokens (reference: 8). Unigrams: all but "a" are right, 6 of 7. Bigrams:
    # the-cat, cat-sat, on-the, the-mat, 4 of 6. Trigrams: the-cat-sat, on-the-mat, 2 of 5.
    # 4-grams: 0 of 4. Second sentence, 5 tokens, all right: 5 of 5, 4 of 4, 3 of 3, 2 of 2.
    # In total 11/12, 8/10, 5/8 and 2/6; brevity penalty exp(1 - 13/12) for 12 tokens of 13.
    precisions = 11 / 12 * 8 / 10 * 5 / 8 * 2 / 6
    expected = 100 * math.exp(1 - 13 / 12) * precisions**0.25
    assert multi_bleu(TRANSLATIONS, REFERENCES) == pytest.approx(expected)
    assert bleu(TRANSLATIONS, REFERENCES)["bleu"] == pytest.approx(expected)


def test_chrf_by_hand():
    # Unigrams: 1 of 2 is right, precision and recall are 1/2. Bigrams: 0 of 1. There are no longer
    # n-grams. chrF is the F-score of the means, (1/2 + 0) / 2.
    assert bleu(["ab"], ["ac"])["chrf"] == pytest.approx(25)


def test_identical_text():
    scores = bleu(REFERENCES, REFERENCES)
    assert scores["bleu"] == pytest.approx(100)
    assert scores["chrf"] == pytest.approx(100)
    assert multi_bleu(REFERENCES, REFERENCES) == pytest.approx(100)


def test_disjoint_text():
    scores = bleu(["aaa bb c dd"], ["xx yyy z ww"])
    assert (scores["bleu"], scores["chrf"]) == (0, 0)
    assert multi_bleu(["aaa bb c dd"], ["xx yyy z ww"]) == 0


def test_empty_translations_score_0():
    assert bleu(["", ""], REFERENCES)["bleu"] == 0
    assert multi_bleu(["", ""], REFERENCES) == 0


def test_result():
    scores = bleu(iter(TRANSLATIONS), tuple(REFERENCES))
    assert scores["sentences"] == 2
    assert "tok:13a|smooth:exp" in scores["signature"]
    assert "nrefs:1|case:mixed" in scores["signature"]
    assert "nc:6|nw:0" in scores["chrf_signature"]
    types = {name: type(value) for name, value in scores.items()}
    assert types == {
        "bleu": float,
        "signature": str,
        "chrf": float,
        "chrf_signature": str,
        "sentences": int,
    }


@pytest.mark.parametrize(
    ("language", "tokenizer"),
    [
        (None, "13a"),
        ("de", "13a"),
        ("pt_BR", "13a"),
        ("sr-Cyrl-RS", "13a"),
        ("xx", "13a"),
        ("", "13a"),
        *[(code, "13a") for code in ("ko", "kor", "kor_Hang", "ko-KR", "KO", "ko_Kore_KR")],
        *[(code, "char") for code in ("ja", "jpn", "JPN", "ja-JP", "jpn_Jpan", "ja_JP.UTF-8")],
        *[(code, "zh") for code in ("zh", "zho", "chi", "cmn", "yue", "wuu", "nan", "lzh", "ZH")],
        *[(code, "zh") for code in ("zh-CN", "zh_TW", "zho_Hans", "ZHO_HANT", "cmn-hans-cn")],
        *[(code, "zh") for code in ("yue_Hant", "zh-yue", "zh-cmn-Hans-CN", "und-Hani")],
        *[(code, "char") for code in ("th", "tha_Thai", "lo", "lao", "km", "khm", "my", "mya")],
        *[(code, "13a") for code in ("ja-Latn", "zho_Latn_CN")],
    ],
)
def test_tokenizer_of_a_language(language, tokenizer):
    signature = bleu(TRANSLATIONS, REFERENCES, target_language=language)["signature"]
    assert f"tok:{tokenizer}|" in signature


@pytest.mark.parametrize(
    ("language", "translation", "reference"),
    [("zh", "我喜欢绿茶", "我喜欢红茶"), ("ja", "私は緑茶が", "私は紅茶が")],
)
def test_chinese_and_japanese_are_counted_by_characters(language, translation, reference):
    # 4 of 5 characters, 2 of 4 bigrams, 1 of 3 trigrams, 0 of 2 4-grams, smoothed to 0.5.
    if language == "ja":
        precisions = 4 / 5 * 2 / 4 * 0.5 / 3 * 0.25 / 2  # 私は, 茶が; no trigram, no 4-gram
    else:
        precisions = 4 / 5 * 2 / 4 * 1 / 3 * 0.5 / 2  # 我喜 喜欢; 我喜欢
    score = bleu([translation], [reference], language)["bleu"]
    assert score == pytest.approx(100 * precisions**0.25)


def test_bleu_tokenises_and_multi_bleu_does_not():
    # "mat." is "mat" and "." to 13a, one token to multi-bleu.
    translations, references = ["the cat sat on the mat."], ["the cat sat on the mat ."]
    assert bleu(translations, references)["bleu"] == pytest.approx(100)
    assert multi_bleu(translations, references) < 90


@pytest.mark.parametrize("metric", [bleu, multi_bleu])
def test_case_counts(metric):
    assert metric(REFERENCES, REFERENCES) != metric([x.title() for x in REFERENCES], REFERENCES)


def test_multi_bleu_does_not_smooth():
    # A right trigram, but no right 4-gram: sacreBLEU smooths this by default, the script gives 0.
    translations, references = ["a b c x"], ["a b c y"]
    assert multi_bleu(translations, references) == 0
    assert bleu(translations, references)["bleu"] > 0


@pytest.mark.parametrize("space", list("\t\n\v\f\r "))
def test_multi_bleu_splits_at_ascii_white_space(space):
    text = f"{space}a{space}{space}b c{space}d{space}"
    assert multi_bleu([text], ["a b c d"]) == pytest.approx(100)


@pytest.mark.parametrize("space", ["\xa0", "\x85", "\x1c", "\u2028", "\u202f", "\u3000", "\ud800"])
def test_multi_bleu_splits_at_no_other_white_space(space):
    # multi-bleu.perl reads bytes, and Perl's split treats the bytes of UTF-8 as letters. "d e" is
    # one token of the translation, so 3 of 4 unigrams, 2 of 3, 1 of 2 and 0 of 1 are right.
    translation, split = f"a b c d{space}e", "a b c d e"
    assert multi_bleu([translation], [split]) == 0
    assert multi_bleu([translation], [translation]) == pytest.approx(100)
    # With f appended: 4 of 5, 2 of 4, 1 of 3 and 0 of 2. With a second sentence of 4 right tokens:
    # 8 of 9, 5 of 7, 3 of 5 and 1 of 3, on 9 tokens (reference: 10).
    expected = 100 * math.exp(1 - 10 / 9) * (8 / 9 * 5 / 7 * 3 / 5 * 1 / 3) ** 0.25
    score = multi_bleu([translation + " f", "w x y z"], [split + " f", "w x y z"])
    assert score == pytest.approx(expected)


@pytest.mark.parametrize("metric", [bleu, multi_bleu])
@pytest.mark.parametrize(
    ("translations", "references", "message"),
    [
        (
            "a b c d e",
            "a b c d e",
            "translations must be a list of strings, .* got 'a b c d e'; put",
        ),
        (["a"], "a", "references must be a list of strings, .* got 'a'; put a single sentence"),
        (b"a b", ["a b"], "translations must be a list of strings, .* got b'a b'"),
        (None, ["a"], "translations must be a list of strings, .* got None"),
        (["a", b"b"], ["a", "b"], r"translations must be .* got b'b' at translations\[1\]"),
        (["a"], [["a"]], r"references must be .* got \['a'\] at references\[0\]"),
        (["a", None], ["a"], r"translations must be .* got None at translations\[1\]"),
    ],
)
def test_not_a_list_of_strings(metric, translations, references, message):
    with pytest.raises(TypeError, match=message):
        metric(translations, references)


@pytest.mark.parametrize("metric", [bleu, multi_bleu])
@pytest.mark.parametrize(
    ("translations", "references", "counts"),
    [
        ([], [], "0 translations and 0 references"),
        (["a"], [], "1 translations and 0 references"),
        (["a"], ["a", "b"], "1 translations and 2 references"),
    ],
)
def test_lists_of_different_lengths(metric, translations, references, counts):
    with pytest.raises(ValueError, match=counts):
        metric(translations, references)
