import collections

import pytest

from tfmoe.data_pipelines import Survey, TextError
from tfmoe.data_pipelines.corpora.lm1b import HELD_OUT, TRAINING, Lm1b


def layout(root, names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("a sentence .\n")


def test_layout(tmp_path):
    train = [f"{TRAINING}/news.en-{i:05}-of-00100" for i in (2, 1)]
    held_out = [f"{HELD_OUT}/news.en.heldout-{i:05}-of-00050" for i in range(3)]
    layout(tmp_path, train + held_out)
    splits = Lm1b(root=str(tmp_path)).splits(None)
    assert splits.train == [str(tmp_path / name) for name in sorted(train)]
    assert splits.valid == [str(tmp_path / held_out[1])]
    assert splits.test == [str(tmp_path / held_out[0])]


@pytest.mark.parametrize(
    "names, missing",
    [
        ([], f"{TRAINING}/news.en-"),
        ([f"{TRAINING}/news.en-00001-of-00100"], f"{HELD_OUT}/news.en.heldout-00001-of-00050"),
        (
            [
                f"{TRAINING}/news.en-00001-of-00100",
                f"{HELD_OUT}/news.en.heldout-00001-of-00050",
            ],
            f"{HELD_OUT}/news.en.heldout-00000-of-00050",
        ),
    ],
)
def test_a_missing_part_is_named(tmp_path, names, missing):
    layout(tmp_path, names)
    with pytest.raises(TextError, match=f"{missing}.*: no such file. .* root must hold {TRAINING}"):
        Lm1b(root=str(tmp_path)).splits(None)


def check(sentences, tokens):
    """What the corpus says of a test text with these counts."""
    found = Survey(sentences, tokens, collections.Counter(), collections.Counter())
    return Lm1b(root="x").check_surveys({"test": found})


def test_published_counts():
    assert check(6075, 153_583) == [
        "the test text has the sentences and words of the published one"
    ]
    assert check(6074, 153_583) == []
    with pytest.raises(TextError, match=r"has 153,583 words in 6,075 sentences; .* 153,584 words"):
        check(6075, 153_584)
