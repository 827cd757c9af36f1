import math

import pytest

from tfmoe.tasks.translation_quality import bleu, multi_bleu

TRANSLATIONS = ["the cat sat a on the mat", "we all like green tea"]
REFERENCES = ["the cat sat down on the mat again", "we all like green tea"]


def test_by_hand():
    # First sentence, 7 tokens against 8: all but "a" are right, 6 of 7. Of the pairs the-cat,
    # cat-sat, on-the and the-mat, 4 of 6. Of the threes the-cat-sat and on-the-mat, 2 of 5. Of the
    # fours none of 4. Second sentence, 5 tokens, all right: 5 of 5, 4 of 4, 3 of 3, 2 of 2.
    # In all 11/12, 8/10, 5/8 and 2/6; 12 tokens against 13 are too short by exp(1 - 13/12).
    precisions = 11 / 12 * 8 / 10 * 5 / 8 * 2 / 6
    expected = 100 * math.exp(1 - 13 / 12) * precisions**0.25
    assert multi_bleu(TRANSLATIONS, REFERENCES) == pytest.approx(expected)
    assert bleu(TRANSLATIONS, REFERENCES)["bleu"] == pytest.approx(expected)


def test_chrf_by_hand():
    # One letter of two is right: precision and recall are 1/2, and so is their mean, for letters.
    # Of the one pair none. No text has longer ones. chrF is the F of the means, (1/2 + 0) / 2.
    assert bleu(["ab"], ["ac"])["chrf"] == pytest.approx(25)


def test_identical_text():
    found = bleu(REFERENCES, REFERENCES)
    assert found["bleu"] == pytest.approx(100)
    assert found["chrf"] == pytest.approx(100)
    assert multi_bleu(REFERENCES, REFERENCES) == pytest.approx(100)


def test_disjoint_text():
    found = bleu(["aaa bb c dd"], ["xx yyy z ww"])
    assert (found["bleu"], found["chrf"]) == (0, 0)
    assert multi_bleu(["aaa bb c dd"], ["xx yyy z ww"]) == 0


def test_empty_translations_score_0():
    assert bleu(["", ""], REFERENCES)["bleu"] == 0
    assert multi_bleu(["", ""], REFERENCES) == 0


def test_what_is_returned():
    found = bleu(iter(TRANSLATIONS), tuple(REFERENCES))
    assert found["sentences"] == 2
    assert "tok:13a|smooth:exp" in found["signature"]
    assert "nrefs:1|case:mixed" in found["signature"]
    assert "nc:6|nw:0" in found["chrf_signature"]
    types = {name: type(value) for name, value in found.items()}
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
    # 4 of 5 characters, 2 of 4 pairs, 1 of 3 threes. Of the fours 0 of 2, smoothed to half of one.
    if language == "ja":
        precisions = 4 / 5 * 2 / 4 * 0.5 / 3 * 0.25 / 2  # 私は, 茶が; no three, no four
    else:
        precisions = 4 / 5 * 2 / 4 * 1 / 3 * 0.5 / 2  # 我喜 喜欢; 我喜欢
    found = bleu([translation], [reference], language)["bleu"]
    assert found == pytest.approx(100 * precisions**0.25)


def test_plain_text_is_tokenised_and_tokens_are_not():
    # "mat." is "mat" and "." to 13a, one token to multi-bleu.
    translations, references = ["the cat sat on the mat."], ["the cat sat on the mat ."]
    assert bleu(translations, references)["bleu"] == pytest.approx(100)
    assert multi_bleu(translations, references) < 90


@pytest.mark.parametrize("metric", [bleu, multi_bleu])
def test_case_counts(metric):
    assert metric(REFERENCES, REFERENCES) != metric([x.title() for x in REFERENCES], REFERENCES)


def test_multi_bleu_does_not_smooth():
    # Three tokens right, but no four: sacreBLEU's default smooths this, the script gives 0.
    translations, references = ["a b c x"], ["a b c y"]
    assert multi_bleu(translations, references) == 0
    assert bleu(translations, references)["bleu"] > 0


@pytest.mark.parametrize("space", list("\t\n\v\f\r "))
def test_multi_bleu_splits_at_ascii_white_space(space):
    text = f"{space}a{space}{space}b c{space}d{space}"
    assert multi_bleu([text], ["a b c d"]) == pytest.approx(100)


@pytest.mark.parametrize("space", ["\xa0", "\x85", "\x1c", "\u2028", "\u202f", "\u3000", "\ud800"])
def test_multi_bleu_splits_at_no_other_white_space(space):
    # multi-bleu.perl reads bytes: Perl's split takes those of UTF-8 for letters. "d e" is one token
    # in the translation, so that a b c d-e has 3 of 4 right, 2 of 3, 1 of 2 and 0 of 1.
    translation, split = f"a b c d{space}e", "a b c d e"
    assert multi_bleu([translation], [split]) == 0
    assert multi_bleu([translation], [translation]) == pytest.approx(100)
    # With f after it: 4 of 5, 2 of 4, 1 of 3 and none; so one more sentence of 4 right tokens, for
    # 8 of 9, 5 of 7, 3 of 5 and 1 of 3, on 9 tokens for 10.
    expected = 100 * math.exp(1 - 10 / 9) * (8 / 9 * 5 / 7 * 3 / 5 * 1 / 3) ** 0.25
    found = multi_bleu([translation + " f", "w x y z"], [split + " f", "w x y z"])
    assert found == pytest.approx(expected)


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
def test_what_is_no_list_of_strings_is_named(metric, translations, references, message):
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
def test_numbers_that_do_not_fit_are_named(metric, translations, references, counts):
    with pytest.raises(ValueError, match=counts):
        metric(translations, references)
