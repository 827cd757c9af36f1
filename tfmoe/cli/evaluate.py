"""`tfmoe evaluate`: perplexity and BLEU of a trained model."""

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

    Perplexity is by the full softmax. By the 1B Word protocol the end of every sentence is
    predicted and counted, its beginning never is; words out of the vocabulary are predicted as
    <UNK>, and count. Translations are made by beam search as the config's model.decoding says;
    BLEU and chrF are sacreBLEU's, with its signature: "tok" is the tokenizer, which the target
    language's script decides. Without --data, the run's own test text is used.

    \b
    Examples:
      tfmoe evaluate runs/demo/moe
      tfmoe evaluate runs/demo/moe --data "my/*.txt" --json
      tfmoe evaluate runs/translation --data my/newstest
      tfmoe evaluate runs/multilingual --data my/newstest --direction en-fr

    \b
    With --json, for a language model: {"perplexity", "tokens" (predictions), "oov" (of these, out
    of vocabulary), "loss" (nats per token)}; for translation: {"bleu", "signature", "chrf",
    "chrf_signature", "multi_bleu" (of text that is tokenised already, as the paper's),
    "sentences", "perplexity" (per subword), "tokens", "loss", and, if there are several,
    "directions"}. Both: how each mixture used its experts.
    """
    with contextlib.redirect_stdout(sys.stderr):
        result, summary = tasks.evaluate_run(run, data, direction, weights)
    if json:
        print_json(result)
    else:
        print(summary)
