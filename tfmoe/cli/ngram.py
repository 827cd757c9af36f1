"""`tfmoe ngram`: the n-gram baseline of a language model."""

import contextlib
import json as json_format
import sys
from typing import Annotated

import typer

from tfmoe import tasks
from tfmoe.cli import arguments

Order = Annotated[int, typer.Option(min=1, metavar="N", help="Words of the longest n-grams.")]


def ngram(
    config: arguments.Config,
    set_: arguments.Set = None,
    order: Order = 5,
    json: arguments.Json = False,
):
    """Count the n-grams of a config's training text, and measure their perplexity.

    Interpolated Kneser-Ney with three discounts for each order (Chen and Goodman 1998), the 5-gram
    model that the paper's Tables 7 and 8 begin with. Text, vocabulary and counting are those of the
    config's language model: its test text (else its validation text), the end of every sentence
    predicted, words out of the vocabulary predicted as <UNK>. The model of the config is neither
    built nor trained, and nothing is written but generated text. All n-grams are kept in memory,
    about 150 bytes for each word of the training text.

    \b
    Examples:
      tfmoe ngram demo/language_model
      tfmoe ngram demo/language_model --order 3 --json
      tfmoe ngram demo/language_model --set data.name=text --set "data.train=my/train*.txt" \\
        --set data.valid=my/valid.txt --set data.test=my/test.txt

    \b
    With --json: {"perplexity", "tokens" (predictions), "oov" (of these, out of vocabulary), "loss"
    (nats per token), "evaluated_on", "order", "ngrams" (of each order), "parameters" (all
    n-grams), "ops_per_timestep", "seconds" (of counting)}.
    """
    with contextlib.redirect_stdout(sys.stderr if json else sys.stdout):
        result = tasks.evaluate_ngrams(config, set_ or (), order)
    print(json_format.dumps(result) if json else tasks.ngrams_summary(result))
