import pytest

from tfmoe.data_pipelines import tokenize


@pytest.mark.parametrize(
    "text, words",
    [
        ("The cat, which sat.", "the cat , which sat ."),
        ("don’t stop batch_size", "don't stop batch size"),
        ("in 2024, 12345 lines", "in 2024 , 0 lines"),
        ("x2 (a+b)", "x 2 ( a + b )"),
        ("木曜日 3日", "木 曜 日 3 日"),
        ("1\u202f980 secondes", "1 980 secondes"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),  # vowel signs are marks, not letters
        ("cafe\u0301", "caf\u00e9"),
        (" \n", ""),
    ],
)
def test_tokenize(text, words):
    assert tokenize(text) == words.split()


def test_ascii_text_is_split_like_other_text():
    """Every pair of ASCII characters between letters; `é` makes the text another one."""
    characters = list(map(chr, range(128)))
    for one in characters:
        text = " ".join(f"a{one}{other}b1{other}" for other in characters)
        assert tokenize(f"{text} é") == [*tokenize(text), "é"]
