"""`tfmoe ngram`: measures the n-gram baseline of a language model."""

import contextlib
import json as json_format
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments

Order = Annotated[
    int, typer.Option(min=1, metavar="N", help="Number of words of the longest n-grams.")
]


def ngram(
    config: arguments.Config,
    set_: arguments.Set = None,
    order: Order = 5,
    json: arguments.Json = False,
):
    """Measure the perplexity of an n-gram model on the text of a config.

    The model is interpolated Kneser-Ney with three discounts per order (Chen and Goodman 1998), the
    5-gram baseline of the paper's Tables 7 and 8. Text, vocabulary and predicted tokens are those
    of the config's language model: the test text (or the validation text if there is none),
    including the end of every sentence, with <UNK> for words out of the vocabulary. The model of
    the config is not trained. Nothing is written except generated text. All n-grams are kept in
    memory, about 150 bytes per word of the training text.

    \b
    Examples:
      tfmoe ngram demo/language_model
      tfmoe ngram demo/language_model --order 3 --json
      tfmoe ngram demo/language_model --set data.name=text --set "data.train=my/train*.txt" \\
        --set data.valid=my/valid.txt --set data.test=my/test.txt

    \b
    With --json: {"perplexity", "tokens" (predictions), "oov" (predictions out of vocabulary),
    "loss" (nats per token), "evaluated_on", "order", "ngrams" (of each order), "parameters" (all
    n-grams), "ops_per_timestep", "seconds" (of counting)}.
    """
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        result = tasks.evaluate_ngrams(config, set_ or (), order)
    print(json_format.dumps(result) if json else tasks.ngrams_summary(result))
