"""`tfmoe evaluate`: measures perplexity and BLEU of a trained model."""

import contextlib
import sys

from tfmoe import tasks
from tfmoe.cli import arguments
from tfmoe.cli.output import print_json


def evaluate(
    run: arguments.Run,
    data: arguments.Data = None,
    direction: arguments.Direction = None,
    weights: arguments.Weights = "best",
    json: arguments.Json = False,
):
    """Measure a trained model: perplexity per word or subword, and BLEU of translations.

    Perplexity uses the full softmax. As in the 1 Billion Word protocol, the end of every sentence
    is predicted and counted, its beginning is not; words out of the vocabulary are predicted as
    <UNK> and counted. Translations use beam search with the config's model.decoding. BLEU and chrF
    are sacreBLEU's, with its signature; the target language's script determines the tokenizer
    ("tok"). Without --data, the run's test text is used.

    \b
    Examples:
      tfmoe evaluate runs/demo/moe
      tfmoe evaluate runs/demo/moe --data "my/*.txt" --json
      tfmoe evaluate runs/translation --data my/newstest
      tfmoe evaluate runs/multilingual --data my/newstest --direction en-fr

    \b
    With --json, for a language model: {"perplexity", "tokens" (predictions), "oov" (predictions
    out of vocabulary), "loss" (nats per token)}; for translation: {"bleu", "signature", "chrf",
    "chrf_signature", "multi_bleu" (the paper's metric, for tokenised text), "sentences",
    "perplexity" (per subword), "tokens", "loss", and "directions" if there are several}. Both
    include the load metrics of each mixture.
    """
    with contextlib.redirect_stdout(sys.stderr):
        result, summary = tasks.evaluate_run(run, data, direction, weights)
    if json:
        print_json(result)
    else:
        print(summary)
