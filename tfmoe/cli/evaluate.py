"""`tfmoe evaluate`: perplexity and BLEU of a trained model."""

import contextlib
import json as json_format
import sys

from tfmoe.cli import arguments
from tfmoe.tasks.tensorflow_import import import_tensorflow


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
    BLEU and chrF are sacreBLEU's. Without --data, the run's own test text is used.

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
    import_tensorflow()
    from tfmoe.tasks import load_run, task_of
    from tfmoe.tasks.progress import verbosity
    from tfmoe.training.callbacks import Progress

    with contextlib.redirect_stdout(sys.stderr):
        config, vocabulary, model = load_run(run, weights)
        task = task_of(config)
        files = task.find_files(data, direction) if data or direction else task.splits.test
        if not files:
            raise ValueError(
                f"{run} has no test text (data.test in its config): name one with --data"
            )
        model.compile(jit_compile=config.training.jit_compile)
        result = task.evaluate(model, vocabulary, files, [Progress()], verbosity())
    print(json_format.dumps(result, ensure_ascii=False) if json else task.summary(result))
