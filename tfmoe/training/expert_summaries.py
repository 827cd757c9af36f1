"""What the experts do while a model trains, for TensorBoard.

Axes: T real tokens of the sample, E experts.
"""

import pathlib
import re
import time

import keras
import tensorflow as tf

from tfmoe.distribute import is_mixed
from tfmoe.models import TranslationModel
from tfmoe.models.word_predictor import PADDING
from tfmoe.training.accounting import describe
from tfmoe.training.inspection import (
    contexts,
    noise_deviation,
    over_mean,
    special_experts,
    use_of_experts,
)
from tfmoe.training.inspection.routing import (
    TextRouter,
    inputs_spec,
    mixture_inputs,
    mixtures_of,
)


class ExpertSummaries(keras.callbacks.Callback):
    """Writes, at the end of each epoch, how the mixtures route a fixed sample of text, and how fast
    the model trains.

    Of each mixture: histograms of load and importance of the experts (over their means), their
    coefficients of variation, the largest over the mean, unused experts, the entropy of the load
    and of a token's gate values (bits), the mean standard deviation of the gate's noise, and the
    words that some experts weigh highest (Table 9). Of the training: words and operations a second,
    learning rate.

    Operations a second of a device are the paper's TFLOPS/GPU: a multiply-add is two operations,
    the backward pass takes twice the forward one, so 6 · ops/timestep · words / second. A timestep
    of a translation is a token of the source and one of the target, words are both.

    Under a `MixedStrategy` of several devices nothing is written of the experts, of which no device
    has all; `fit`'s own metrics of their use are those of the whole batch.

    Args:
        directory: for the event files, such as `logs/experts` in a run's folder.
        batches: the sample: a list of batches as for `route_text`, a few thousand words.
        vocabulary: a `data_pipelines.Vocabulary` or `Subwords`; `None` for no words.
        experts: how many experts to show words of; those that are most special.
        number: of contexts for each.

    Raises:
        ValueError: in `fit`, if the model is not a `LanguageModel` or `TranslationModel`.
    """

    def __init__(self, directory, batches=(), vocabulary=None, experts=4, number=5):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.batches = list(batches)
        self.vocabulary = vocabulary
        self.experts = experts
        self.number = number
        self._writer = None

    def on_train_begin(self, logs=None):
        # Raises for other models.
        routes = has_all_experts(self.model) and self.batches
        self._router = TextRouter(self.model) if routes else None
        self._noise = NoiseMeter(self.model) if routes else None
        self._ops = describe(self.model)["ops_per_timestep"]
        self._writer = tf.summary.create_file_writer(str(self.directory))

    def on_epoch_begin(self, epoch, logs=None):
        self._begin = self._end = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._end = time.perf_counter()  # validation comes after the last one

    def on_epoch_end(self, epoch, logs=None):
        with self._writer.as_default(step=epoch):
            self._write_speed(logs or {})
            if self._router is not None:
                self._write_experts()
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _write_experts(self):
        for name, routed in self._router(self.batches).items():
            write_use(name, use_of_experts(routed))
            if self.vocabulary is not None:
                text = contexts_as_markdown(routed, self.vocabulary, self.experts, self.number)
                tf.summary.text(f"{name}/contexts", text)
        for name, value in self._noise(self.batches).items():
            tf.summary.scalar(name, value)

    def _write_speed(self, logs):
        speed = logs.get("words_per_second")  # of an epoch that is resumed too
        seconds = self._end - self._begin
        if speed is None and seconds and "words" in logs:
            speed = logs["words"] / seconds
        if speed is not None:
            tf.summary.scalar("training/words_per_second", speed)
            timesteps = speed / 2 if isinstance(self.model, TranslationModel) else speed
            devices = self.model.distribute_strategy.num_replicas_in_sync
            tf.summary.scalar("training/flops_per_device", 6 * self._ops * timesteps / devices)
        rate = tf.convert_to_tensor(self.model.optimizer.learning_rate)
        tf.summary.scalar("training/learning_rate", rate)


def has_all_experts(model):
    """Whether a model has mixtures, and their experts lie on one device: else there is nothing to
    follow a text through.

    Raises:
        ValueError: if the model is of another class than can be inspected.
    """
    strategy = model.distribute_strategy
    is_spread_out = is_mixed(strategy) and strategy.num_replicas_in_sync > 1
    return bool(mixtures_of(model)) and not is_spread_out


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
        model: a built `LanguageModel` or `TranslationModel`.
    """

    def __init__(self, model):
        self.model = model
        self._names = list(mixtures_of(model))
        self._deviations = tf.function(
            self._deviations_of_batch, [inputs_spec(model)], autograph=False
        )

    def _deviations_of_batch(self, inputs):
        """`{"moe_1/noise": (sum over the tokens, number of tokens)}`, scalars."""
        found = {}
        every = zip(self._names, mixture_inputs(self.model, inputs), strict=True)
        for name, (layer, features, tokens) in every:
            real = tf.boolean_mask(features, tf.not_equal(tokens, PADDING))
            real = tf.cast(real, layer.gate.compute_dtype)
            number = tf.cast(tf.shape(real)[0], real.dtype)
            for which, value in noise_deviation(layer.gate, real).items():
                found[f"{name}/{which}"] = value * number, number
        return found

    def __call__(self, batches):
        """`{"moe_1/noise": mean over all tokens of the batches}`, by layer and gate; empty if no
        gate has noise.
        """
        sums = {}
        for batch in batches:
            for name, (value, number) in self._deviations(batch[0]).items():
                before = sums.get(name, (0.0, 0.0))
                sums[name] = before[0] + float(value), before[1] + float(number)
        return {name: total / number for name, (total, number) in sums.items()}


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
