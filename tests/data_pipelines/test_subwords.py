import os

import pytest
import tensorflow as tf

from tfmoe.data_pipelines.subword_training import UNKNOWN_SURFACE
from tfmoe.data_pipelines.subwords import Subwords
from tfmoe.data_pipelines.text import TextError

TEXT = [
    "the cat sat on the mat",
    "the dog sat on the cat",
    "die Katze saß auf der Matte",
    "der Hund saß auf der Katze",
    "猫がマットの上に座った",
    "犬が猫の上に座った",
]


@pytest.fixture(scope="module")
def subwords():
    return Subwords.train(TEXT, 100, languages=["de", "en", "ja"])


def test_ids_of_special_pieces_and_languages(subwords):
    assert [subwords.piece(index) for index in range(6)] == [
        "</s>",
        "<s>",
        "<unk>",
        "<2de>",
        "<2en>",
        "<2ja>",
    ]
    assert subwords.languages == ["de", "en", "ja"]
    assert [subwords.language_id(name) for name in ("de", "en", "ja")] == [3, 4, 5]
    assert 40 < len(subwords) <= 100
    with pytest.raises(IndexError, match=r"id -1 is not in a vocabulary of \d+ pieces"):
        subwords.piece(-1)
    with pytest.raises(IndexError, match=r"is not in a vocabulary of \d+ pieces"):
        subwords.piece(len(subwords))
    with pytest.raises(ValueError, match="has no language 'fr'; it has: de, en, ja"):
        subwords.language_id("fr")


def test_without_languages():
    subwords = Subwords.train(TEXT, 100)
    assert subwords.languages == []
    assert subwords.piece(3)[:1] != "<"
    with pytest.raises(ValueError, match="no language 'fr'; it has: none, it is of one pair"):
        subwords.language_id("fr")


def test_text_comes_back(subwords):
    for text in TEXT:
        ids = subwords.encode(text)
        assert min(ids) > 5
        assert subwords.decode(ids) == text
    assert subwords.encode("") == subwords.encode(" ") == []
    assert subwords.decode([]) == ""
    assert subwords.encoded_lengths(TEXT) == [len(subwords.encode(text)) for text in TEXT]
    assert subwords.encoded_lengths(["犬".encode()]) == [len(subwords.encode("犬"))]


def test_only_spaces_are_normalised():
    text = ["ＡＢＣ １２３ ﬁ ½", "a\u00a0b", "a\u3000b", "\ufeffa", "e\u0301 é", "a\tb"]
    subwords = Subwords.train(text, 100)
    assert [subwords.decode(subwords.encode(line)) for line in text] == text
    assert subwords.decode(subwords.encode("  a  b ")) == "a b"
    assert subwords.decode(subwords.encode("a\u2581b")) == "a b"


def test_unknown_characters(subwords):
    ids = subwords.encode("the ☃☃ cat")
    assert ids.count(2) == 1
    assert subwords.decode(ids) == f"the {UNKNOWN_SURFACE} cat"


def test_text_does_not_make_special_pieces(subwords):
    for text in ("<2de>", "a <2de> cat", "</s>", "<s>", "the<unk>"):
        assert not set(subwords.encode(text)) & {0, 1, 3, 4, 5}
    with_signs = Subwords.train(["<2fr> </s> < 2fr / s unk >"] * 20, 60, languages=["fr"])
    for text in ("<2fr>", "x<2fr> </s>", "<s>", "<unk>"):
        assert not set(with_signs.encode(text)) & {0, 1, 3}
    assert with_signs.decode(with_signs.encode("<2fr> </s>")) == "<2fr> </s>"


def test_decode_of_special_ids(subwords):
    ids = subwords.encode(TEXT[0])
    assert subwords.decode([1, 3, *ids, 0, 0]) == TEXT[0]
    with pytest.raises(IndexError, match="id 9999 is not in a vocabulary"):
        subwords.decode([9999])


def test_training_is_deterministic(subwords, capfd):
    again = Subwords.train(iter(TEXT), 100, languages=("de", "en", "ja"))
    assert again.serialized == subwords.serialized
    assert again.fingerprint == subwords.fingerprint
    assert len(again.fingerprint) == 64
    assert Subwords.train(TEXT[:4], 100).fingerprint != again.fingerprint
    assert capfd.readouterr() == ("", "")


def test_a_long_text_is_sampled():
    text = [f"word{index}" for index in range(1000)]
    first = Subwords.train(text, 40, max_sentences=50, seed=1)
    assert Subwords.train(text, 40, max_sentences=50, seed=1).serialized == first.serialized
    assert Subwords.train(text, 40, max_sentences=50, seed=2).serialized != first.serialized
    # Those drawn come from all of the text, each once.
    from tfmoe.data_pipelines.subword_training import _draw

    drawn = _draw(["", *text], 50, 1)
    numbers = sorted(int(word[4:]) for word in drawn)
    assert len(set(numbers)) == 50
    assert numbers[0] < 100 and numbers[-1] > 900
    assert _draw([" ", "a", "b"], 2, 1) == ["a", "b"]


def test_save_and_load(subwords, tmp_path):
    path = tmp_path / "new" / "vocabulary.model"
    subwords.save(path)
    loaded = Subwords.load(path)
    assert path.read_bytes() == subwords.serialized == loaded.serialized
    assert loaded.languages == ["de", "en", "ja"]
    assert loaded.encode(TEXT[2]) == subwords.encode(TEXT[2])
    assert os.listdir(path.parent) == ["vocabulary.model"]


@pytest.mark.parametrize("content", [b"", b"</s>\n<s>\n", b"\0" * 50])
def test_load_of_something_else(tmp_path, content):
    (tmp_path / "v.model").write_bytes(content)
    with pytest.raises(TextError, match=r"v\.model: not a subword model of this project: "):
        Subwords.load(tmp_path / "v.model")
    with pytest.raises(TextError, match=r"w\.model: no such file"):
        Subwords.load(tmp_path / "w.model")


def test_load_of_a_model_with_other_ids(tmp_path):
    import sentencepiece

    with open(tmp_path / "v.model", "wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(TEXT),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            minloglevel=2,
        )
    with pytest.raises(TextError, match=r"v\.model: .*\(ids 0, 1, 2\); they are <unk>, <s>, </s>"):
        Subwords.load(tmp_path / "v.model")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 3}, "size must be at least 4, got 3"),
        ({"size": 10}, r"size must be at least \d\d, for the special pieces and for each char"),
        (
            {"character_coverage": 0},
            "character_coverage must be at least 0.98 and at most 1, got",
        ),
        ({"max_sentences": 0}, "max_sentences must be at least 1, got 0"),
        ({"languages": "fr"}, "languages must be a list of names, got the string 'fr'"),
        ({"languages": ["fr", "fr"]}, "the language 'fr' is named twice"),
        ({"languages": ["f>"]}, "a language's name must have only ASCII letters.*got 'f>'"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Subwords.train(TEXT, **{"size": 100, **options})


def test_nothing_to_train_on():
    with pytest.raises(TextError, match="there is no sentence to train subwords on"):
        Subwords.train(["", "  "], 100)
    with pytest.raises(TextError, match="all sentences to train subwords on are too long"):
        Subwords.train(["a " * 5000], 100)


def test_tokenizer_of_graphs(subwords, tmp_path):
    text = [*TEXT, "a <2de> ☃", "", " two  spaces "]

    class Module(tf.Module):
        def __init__(self):
            super().__init__()
            self.tokenizer = subwords.tokenizer()

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string)])
        def there(self, text):
            return self.tokenizer.tokenize(text)

        @tf.function(input_signature=[tf.TensorSpec([None, None], tf.int32)])
        def back(self, ids):
            return self.tokenizer.detokenize(ids)

    tf.saved_model.save(Module(), str(tmp_path))
    saved = tf.saved_model.load(str(tmp_path))
    ids = saved.there(tf.constant(text))
    assert ids.dtype == tf.int32
    assert ids.to_list() == [subwords.encode(line) for line in text]
    ids = tf.concat([tf.fill([len(text), 1], 3), ids.to_tensor(0)], 1)  # a symbol, and padding
    decoded = [line.decode() for line in saved.back(ids).numpy()]
    assert decoded == [subwords.decode(subwords.encode(line)) for line in text]
    assert decoded[: len(TEXT)] == TEXT
