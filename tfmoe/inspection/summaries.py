"""What the experts do while a model trains, for TensorBoard.

Axes: T real tokens of the sample, E experts.
"""

import pathlib
import re
import time

import keras
import tensorflow as tf

from tfmoe.analysis.operations import ops_per_timestep
from tfmoe.distribute import is_mixed
from tfmoe.inspection import (
    BatchRouter,
    TextRouter,
    contexts,
    mixtures_of,
    noise_deviation,
    over_mean,
    special_experts,
    use_of_experts,
)
from tfmoe.inspection.calls import MixtureCalls, inputs_of


class ExpertSummaries(keras.callbacks.Callback):
    """Writes, at the end of each epoch, how the mixtures of a Keras model route a fixed sample, and
    how fast the model trains.

    Of each mixture: histograms of load and importance of the experts (over their means), their
    coefficients of variation, the largest over the mean, unused experts, the entropy of the load
    and of a token's gate values (bits), the mean standard deviation of the gate's noise, and the
    words that some experts weigh highest (Table 9). Of the training: the learning rate; words a
    second, where the model has a metric `words`; of a `LanguageModel` or `TranslationModel`
    operations a second.

    Operations a second of a device are the paper's TFLOPS/GPU: a multiply-add is two operations,
    the backward pass takes twice the forward one, so 6 · ops/timestep · words / second. A timestep
    of a translation is a token of the source and one of the target, words are both.

    Under a `MixedStrategy` of several devices nothing is written of the experts, of which no device
    has all; `fit`'s own metrics of their use are those of the whole batch.

    Args:
        directory: for the event files, such as `logs/experts` in a run's folder.
        batches: the sample: a list of batches as for `route_batches`, a few thousand words; with a
            vocabulary as for `route_text`.
        vocabulary: a `tfmoe.data_pipelines.Vocabulary` or `Subwords`; `None` for no words.
        experts: how many experts to show words of; those that are most special.
        number: of contexts for each.
        tokens: with a vocabulary, as for `route_text`.

    Raises:
        ValueError: in `fit`, if the sample cannot be followed, as `route_text` and `route_batches`.
    """

    def __init__(self, directory, batches=(), vocabulary=None, experts=4, number=5, tokens=None):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.batches = list(batches)
        self.vocabulary = vocabulary
        self.experts = experts
        self.number = number
        self.tokens = tokens
        self._writer = None

    def on_train_begin(self, logs=None):
        self._router = self._noise = None
        self._routes = bool(self.batches) and has_all_experts(self.model)
        if self._routes and self.model.built:
            self._follow(self.batches[:1])  # an error comes before an epoch, not after it
        self._ops_per_word = ops_per_word(self.model)
        self._writer = tf.summary.create_file_writer(str(self.directory))

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = self._end = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._end = time.perf_counter()  # validation comes after the last one

    def on_epoch_end(self, epoch, logs=None):
        with self._writer.as_default(step=epoch):
            self._write_speed(logs or {})
            if self._routes:
                self._write_experts()
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _follow(self, batches):
        """The routings and the noise of batches."""
        if self._router is None:
            text = self.vocabulary is not None
            self._router = TextRouter(self.model, self.tokens) if text else BatchRouter(self.model)
            self._noise = NoiseMeter(self.model)
        return self._router(batches), self._noise(batches)

    def _write_experts(self):
        routings, noise = self._follow(self.batches)
        for name, routed in routings.items():
            write_use(name, use_of_experts(routed))
            if self.vocabulary is not None:
                text = contexts_as_markdown(routed, self.vocabulary, self.experts, self.number)
                tf.summary.text(f"{name}/contexts", text)
        for name, value in noise.items():
            tf.summary.scalar(name, value)

    def _write_speed(self, logs):
        speed = logs.get("words_per_second")  # of an epoch that is resumed too
        seconds = self._end - self._begin
        if speed is None and seconds and "words" in logs:
            speed = logs["words"] / seconds
        if speed is not None:
            tf.summary.scalar("training/words_per_second", speed)
            if self._ops_per_word is not None:
                devices = self.model.distribute_strategy.num_replicas_in_sync
                flops = 6 * self._ops_per_word * speed / devices
                tf.summary.scalar("training/flops_per_device", flops)
        rate = tf.convert_to_tensor(self.model.optimizer.learning_rate)
        tf.summary.scalar("training/learning_rate", rate)


def has_all_experts(model):
    """Whether a model has mixtures, and their experts lie on one device: else there is nothing to
    follow a text through.
    """
    strategy = model.distribute_strategy
    is_spread_out = is_mixed(strategy) and strategy.num_replicas_in_sync > 1
    return bool(mixtures_of(model)) and not is_spread_out


def ops_per_word(model):
    """Multiply-adds of a forward step for one word, as the paper counts; `None` for a model that
    does not tell, or has a block that does not.
    """
    words = getattr(model, "words_per_timestep", None)
    try:
        return None if words is None else ops_per_timestep(model) / words
    except NotImplementedError:
        return None


def write_use(name, use):
    """Writes the use of a mixture's experts to the summary writer in scope.

    Args:
        name: of the layer.
        use: an `ExpertUse`.
    """
    for what in ("load", "importance"):
        tf.summary.histogram(f"{name}/{what}_over_mean", over_mean(getattr(use, what)))
    for key, value in use.summary().items():
        tf.summary.scalar(f"{name}/{key}", value)


class NoiseMeter:
    """Measures the mean standard deviation of each gate's noise, see `noise_deviation`.

    Args:
        model: a built Keras model, on one device.
    """

    def __init__(self, model):
        self._calls = MixtureCalls(model, summed_deviations)

    def __call__(self, batches):
        """`{"moe_1/noise": mean over all tokens of the batches}`, by layer and gate; empty if no
        gate has noise.
        """
        sums = {}
        for batch in batches if self._calls.mixtures else ():
            for name, calls in self._calls(inputs_of(batch)).items():
                for number, deviations in calls:
                    for which, value in deviations.items() if number else ():
                        total, tokens = sums.get(f"{name}/{which}", (0.0, 0.0))
                        sums[f"{name}/{which}"] = total + float(value), tokens + float(number)
        return {name: total / tokens for name, (total, tokens) in sums.items()}


def summed_deviations(recording):
    """Of a call of a mixture the number of tokens, and `{"noise": the sum over them}`, scalars."""
    gate = recording.layer.gate
    tokens = tf.cast(recording.tokens, gate.compute_dtype)
    number = tf.cast(tf.shape(tokens)[0], tokens.dtype)
    return number, {name: value * number for name, value in noise_deviation(gate, tokens).items()}


def contexts_as_markdown(routed, vocabulary, experts=4, number=5):
    """Table 9 for the most special experts of a mixture, as TensorBoard's text wants it.

    Args:
        routed: a `RoutedText`.
        vocabulary: for the words.
        experts: how many.
        number: of contexts for each.
    """
    lines = ["| expert | G(x) | context |", "|---|---|---|"]
    for expert in special_experts(routed, experts):
        for each in contexts(routed, expert, vocabulary, number):
            before, token, after = map(escaped, (each.before, each.token, each.after))
            lines.append(f"| {expert} | {each.gate:.3f} | {before} **{token}** {after} |")
    return "\n".join(lines)


def escaped(text):
    """Text as Markdown that shows it as it is."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").strip()
    return re.sub(r"([\\`*_{}\[\]()#+.!|>~-])", r"\\\1", text)
