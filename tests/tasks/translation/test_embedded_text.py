"""Translation of the embedded text."""

from tasks.translation.small_corpora import EMBEDDED, built, load

from tfmoe.tasks import task_of


def test_embedded_translation(folder):
    config = load(EMBEDDED)
    task = task_of(config)
    facts = task.corpus_statistics()
    assert {part: counts["sentences"] for part, counts in facts.items()} == {
        "train": 90, "valid": 12, "test": 15,
    }  # fmt: skip
    assert all(path.startswith(str(folder / "cache")) for path in facts["train"]["files"])
    vocabulary = task.new_vocabulary()
    assert vocabulary.languages == ["en", "fr", "ja"]
    model = built(config, vocabulary)
    (files,) = task.find_files([], "en-ja")
    result = task.evaluate(model, vocabulary, [files], [])
    assert result["sentences"] == 5 and "tok:char" in result["signature"]
    # The text is used again, also with another batch size.
    again = task_of(load(EMBEDDED, "data.batch_tokens=128"))
    assert again.corpus_statistics() == facts
    other = task_of(load(EMBEDDED, "data.seed=1"))
    assert other.corpus_statistics()["train"]["files"] != facts["train"]["files"]
