"""Summaries of the experts' use during training, for TensorBoard.

Axes: T real tokens of the sample, E experts.
"""

import os
import pathlib
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

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
    spelling,
    use_of_experts,
)
from tfmoe.inspection.calls import MixtureCalls, inputs_of


class ExpertSummaries(keras.callbacks.Callback):
    """Writes the routing of a fixed sample and the training speed to TensorBoard after each epoch.

    For each mixture it writes: histograms of the experts' load and importance (over their means),
    the coefficients of variation, the maximum over the mean, the number of unused experts, the
    entropies of the load and of a token's gate values (in bits), the mean standard deviation of the
    gate's noise, and contexts of the most specialised experts (Table 9). For the training it
    writes: the learning rate; the words per second, if the model has a metric `words`; for a
    `LanguageModel` or `TranslationModel` the operations per second.

    The operations per second and device are the paper's TFLOPS/GPU. A multiply-add is two
    operations, and the backward pass costs twice the forward pass: 6 · ops/timestep · words /
    second. A timestep of a translation consists of one source token and one target token, and words
    include both.

    Under a `MixedStrategy` with several devices, nothing is written about experts, because no
    device has all of them. The metrics of `fit` measure the whole batch there.

    Args:
        directory: folder of the event files, such as `logs/experts` in a run's folder.
        batches: the sample, a list of batches with a few thousand words: for `route_text` with a
            vocabulary, else for `route_batches`.
        vocabulary: the texts of ids, see `spelling`, such as `TextVectorization.get_vocabulary()`;
            `None` to write no contexts.
        experts: number of experts with contexts; the most specialised ones are chosen.
        number: number of contexts per expert.
        tokens: with a vocabulary, the argument `tokens` of `route_text`.

    Raises:
        ValueError: in `fit`, if the sample cannot be routed, see `route_text` and `route_batches`.
    """

    def __init__(
        self,
        directory: str | os.PathLike,
        batches: Iterable = (),
        vocabulary: Any = None,
        experts: int = 4,
        number: int = 5,
        tokens: Callable | keras.Layer | None = None,
    ):
        super().__init__()
        self.directory = pathlib.Path(directory)
        self.batches = list(batches)
        self.vocabulary = vocabulary
        spelling(vocabulary)  # raises an error for what is none
        self.experts = experts
        self.number = number
        self.tokens = tokens
        self._writer = None

    def on_train_begin(self, logs=None):
        self._router = self._noise = None
        self._routes = bool(self.batches) and has_all_experts(self.model)
        if self._routes and self.model.built:
            self._route(self.batches[:1])  # raises errors before the first epoch, not after it
        self._ops_per_word = ops_per_word(self.model)
        self._writer = tf.summary.create_file_writer(str(self.directory))

    def on_epoch_begin(self, epoch, logs=None):
        self._start = self._end = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        self._end = time.perf_counter()  # excludes validation

    def on_epoch_end(self, epoch, logs=None):
        with self._writer.as_default(step=epoch):
            self._write_speed(logs or {})
            if self._routes:
                self._write_experts()
        self._writer.flush()

    def on_train_end(self, logs=None):
        self._writer.close()

    def _route(self, batches):
        """The routings and the noise of batches."""
        if self._router is None:
            is_text = self.vocabulary is not None
            router = TextRouter(self.model, self.tokens) if is_text else BatchRouter(self.model)
            self._router = router
            self._noise = NoiseMeter(self.model)
        return self._router(batches), self._noise(batches)

    def _write_experts(self):
        routings, noise = self._route(self.batches)
        for name, routed in routings.items():
            write_use(name, use_of_experts(routed))
            if self.vocabulary is not None:
                text = contexts_as_markdown(routed, self.vocabulary, self.experts, self.number)
                tf.summary.text(f"{name}/contexts", text)
        for name, value in noise.items():
            tf.summary.scalar(name, value)

    def _write_speed(self, logs):
        speed = logs.get("words_per_second")  # correct for resumed epochs too
        seconds = self._end - self._start
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
    """Whether a model has mixtures and all their experts are on one device, as routing requires."""
    strategy = model.distribute_strategy
    is_sharded = is_mixed(strategy) and strategy.num_replicas_in_sync > 1
    return bool(mixtures_of(model)) and not is_sharded


def ops_per_word(model):
    """Multiply-adds per word in the forward pass, counted as in the paper; `None` if the model or
    one of its blocks does not define them.
    """
    words = getattr(model, "words_per_timestep", None)
    try:
        return None if words is None else ops_per_timestep(model) / words
    except NotImplementedError:
        return None


def write_use(name, use):
    """Writes the use of a mixture's experts to the current summary writer.

    Args:
        name: name of the layer.
        use: an `ExpertUse`.
    """
    for measure in ("load", "importance"):
        tf.summary.histogram(f"{name}/{measure}_over_mean", over_mean(getattr(use, measure)))
    for key, value in use.summary().items():
        tf.summary.scalar(f"{name}/{key}", value)


class NoiseMeter:
    """Measures the mean standard deviation of each gate's noise, see `noise_deviation`.

    Args:
        model: a built Keras model, on one device.
    """

    def __init__(self, model):
        self._calls = MixtureCalls(model, sum_deviations)

    def __call__(self, batches):
        """Measures batches.

        Returns:
            `{"moe_1/noise": mean over all tokens of the batches}`, by layer and gate; empty if no
            gate has noise.
        """
        sums = {}
        for batch in batches if self._calls.mixtures else ():
            for name, calls in self._calls(inputs_of(batch)).items():
                for num_tokens, deviations in calls:
                    for key, value in deviations.items() if num_tokens else ():
                        total, count = sums.get(f"{name}/{key}", (0.0, 0.0))
                        sums[f"{name}/{key}"] = total + float(value), count + float(num_tokens)
        return {name: total / count for name, (total, count) in sums.items()}


def sum_deviations(recording):
    """The token count of a call and the sums of deviations, `{"noise": sum}`, as scalars."""
    gate = recording.layer.gate
    tokens = tf.cast(recording.tokens, gate.compute_dtype)
    num_tokens = tf.cast(tf.shape(tokens)[0], tokens.dtype)
    deviations = noise_deviation(gate, tokens)
    return num_tokens, {name: value * num_tokens for name, value in deviations.items()}


def contexts_as_markdown(routed, vocabulary, experts=4, number=5):
    """Table 9 for the most specialised experts of a mixture, as Markdown for TensorBoard.

    Args:
        routed: a `RoutedText`.
        vocabulary: the vocabulary of its tokens.
        experts: number of experts.
        number: number of contexts per expert.
    """
    lines = ["| expert | G(x) | context |", "|---|---|---|"]
    for expert in special_experts(routed, experts):
        for context in contexts(routed, expert, vocabulary, number):
            texts = (context.before, context.token, context.after)
            before, token, after = map(escape_markdown, texts)
            lines.append(f"| {expert} | {context.gate:.3f} | {before} **{token}** {after} |")
    return "\n".join(lines)


def escape_markdown(text):
    """Escapes text for Markdown."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").strip()
    return re.sub(r"([\\`*_{}\[\]()#+.!|>~-])", r"\\\1", text)
