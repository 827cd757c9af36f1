"""`tfmoe ngram`."""

import json

# n-grams of each order in the corpus of conftest.py, with 8 ids: <S>, </S>, <UNK>, a to e. Its
# sentences are a b c, b c d, c d e, d e <UNK>: four n-grams of each order begin with <S>, and four
# end with </S>.
NGRAMS = [8, 4 + 5 + 4, 4 + 4 + 4, 4 + 4, 4]


def test_json(command):
    status, out, err = command("ngram", "tiny.yaml", "--json")
    result = json.loads(out)
    assert status == 0 and "3-grams" in err
    assert set(result) == {
        "perplexity", "tokens", "oov", "loss", "evaluated_on", "order", "ngrams", "parameters",
        "ops_per_timestep", "seconds",
    }  # fmt: skip
    assert (result["tokens"], result["oov"], result["evaluated_on"]) == (8 + 3, 2, "test")
    assert (result["order"], result["ngrams"]) == (5, NGRAMS)
    assert result["parameters"] == sum(NGRAMS)


def test_predicts_the_same_tokens_as_the_language_model(command, finished):
    _, out, _ = command("evaluate", finished.path, "--json")
    model = json.loads(out)
    _, out, _ = command("ngram", "tiny.yaml", "--json")
    ngrams = json.loads(out)
    assert all(ngrams[key] == model[key] for key in ("tokens", "oov"))


def test_summary_and_validation_text(command):
    status, out, err = command("ngram", "tiny.yaml", "--order", "2", "--set", "data.test=[]")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[-3:-1] == [f"{count} {order}-grams" for count, order in ((8, 1), (13, 2))]
    assert lines[-1].startswith("valid: Kneser-Ney 2-gram: perplexity ")
    assert "on 12 tokens (ends of sentences included), 1 of them out of vocabulary" in lines[-1]


def test_errors(refused):
    no_text = ["--set", "data.test=[]", "--set", "data.valid=[]"]
    assert "data.test and data.valid are empty" in refused("ngram", "tiny.yaml", *no_text)
    message = refused("ngram", "demo/translation")
    assert "must be the config of a language model" in message and "is translation" in message


def test_order(command):
    status, _, err = command("ngram", "tiny.yaml", "--order", "0")
    assert status == 2 and "'--order'" in err
