"""A translation model as functions on subword ids, out of operations that other runtimes know.

Axes: B sentences, S longest source, N rows of a search (one hypothesis a row), V vocabulary.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfmoe.models import TranslationModel
from tfmoe.models.word_predictor import END, START
from tfmoe.serving.constant_weights import ConstantWeights
from tfmoe.serving.explicit_states import States, random_sentences, zeros
from tfmoe.serving.signatures import Signature


class PortableTranslationModel:
    """Encodes sources once, and decodes targets subword by subword with an explicit state.

    A client searches: greedily, or with a beam, whose hypotheses are rows. Results do not depend on
    the other rows of a batch, nor on the width of the padding.

    Args:
        model: a built `TranslationModel` with float32 weights.

    Raises:
        ValueError: if the weights are too large.
    """

    def __init__(self, model: TranslationModel):
        self.model = model
        self.weights = ConstantWeights(model)
        self.states = States(model.initial_states)
        self.source = tf.TensorSpec([None, None], tf.int32, "source")
        function = tf.function(self.encode, input_signature=[self.source], autograph=False)
        encoded = function.get_concrete_function().structured_outputs
        self.memories = [
            tf.TensorSpec(tensor.shape, tensor.dtype, name) for name, tensor in encoded.items()
        ]

    def signatures(self) -> dict[str, Signature]:
        """The functions to export, `{name: Signature}`."""
        return {
            "encode": Signature(
                self.encode,
                [self.source],
                "reads sources: the tensors that all steps of their translations share",
            ),
            "decode_step": Signature(
                self.decode_step,
                [tf.TensorSpec([None], tf.int32, "ids"), *self.memories, *self.states.inputs],
                "reads one subword of each translation, first <s>, and predicts the next",
            ),
        }

    def encode(self, source: tf.Tensor) -> dict[str, tf.Tensor]:
        """Computes what all steps of a translation share.

        Args:
            source: `[B, S]` int32, padded at the end with 0, S at least 1. The source of a
                multilingual model starts with the symbol of the target language.

        Returns:
            A dictionary: `memory_0`, `memory_1`, … `[B, …]`, of all blocks that attend to the
            source.
        """
        with self.weights.scope():
            prepared = self.model.sources(*self.model.encode(source))
        # The mask, and the memory itself, are part of several sources, but only one output.
        tensors = {tensor.ref(): tensor for tensor in tf.nest.flatten(prepared)}
        names = {ref: f"memory_{index}" for index, ref in enumerate(tensors)}
        self._names = tf.nest.map_structure(lambda tensor: names[tensor.ref()], prepared)
        return {names[ref]: tf.identity(tensor) for ref, tensor in tensors.items()}

    def decode_step(self, ids: tf.Tensor, *tensors: tf.Tensor) -> dict[str, tf.Tensor]:
        """Reads one subword of each row.

        Args:
            ids: `[N]` int32, the last subword: `<s>` in the first step.
            *tensors: the outputs of `encode`, with one row for each row of the search, and the
                states after the subword before, in the order of the signature.

        Returns:
            A dictionary: `log_probabilities`, `[N, V]` float32, of the next subwords; `attention`,
            `[N, S]` float32, the weights of the source; and the new states, `next_…` for each
            input.
        """
        memories = {spec.name: x for spec, x in zip(self.memories, tensors, strict=False)}
        states = self.states.packed(tensors[len(memories) :])
        sources = tf.nest.map_structure(lambda name: memories[name], self._names)
        with self.weights.scope():
            values, attention, states = self.model.step(ids, states, sources)
        return {
            "log_probabilities": values,
            "attention": attention,
            **self.states.outputs(states),
        }

    def facts(self) -> dict:
        """What a client must know besides the signatures, for the manifest."""
        return {"memories": [spec.name for spec in self.memories]}

    def samples(self, seed: int = 0) -> Iterator[tuple[str, dict]]:
        """Yields inputs to compare files with the model: names of functions, and `{name: array}`.

        Args:
            seed: of random ids.
        """
        rng = np.random.default_rng(seed)
        source = random_sentences(rng, self.model.vocabulary_size, [7, 1, 4])
        yield "encode", {"source": source}
        memories = {name: x.numpy() for name, x in self.encode(tf.constant(source)).items()}
        states, ids = zeros(self.states.inputs, len(source), 3), np.full([len(source)], START)
        for _ in range(2):
            inputs = {"ids": ids.astype(np.int32), **memories, **states}
            yield "decode_step", inputs
            outputs = self.decode_step(*map(tf.constant, inputs.values()))
            states = {name: outputs[f"next_{name}"].numpy() for name in states}
            ids = rng.integers(END + 1, self.model.vocabulary_size, len(source))
