"""The tensors of a checkpoint for each variable of a model.

Axes: E experts, I inputs, O outputs, D model.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import keras
import numpy as np

from tfmoe.huggingface.shape import Shape

EMBEDDING, HEAD, FINAL_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"


class Entry(NamedTuple):
    """A variable of a model, and the tensors that hold its values.

    A checkpoint has a tensor `[O, I]` for each matrix of each expert. tfmoe has `[E, I, O]`, and
    the two matrices of a gated layer side by side, `[E, I, 2·O]`.

    Attributes:
        variable: the Keras variable.
        names: the names of the tensors: for each expert, those of its matrices. A tuple of one
            tuple for a variable without experts.
        is_matrix: whether tensors are transposed and joined. Otherwise the only tensor has the
            shape of the variable.
    """

    variable: keras.Variable
    names: tuple[tuple[str, ...], ...]
    is_matrix: bool = True

    def stored_shape(self) -> tuple[int, ...]:
        """The shape of each tensor."""
        if not self.is_matrix:
            return tuple(self.variable.shape)
        inputs, outputs = self.variable.shape[-2:]
        return outputs // len(self.names[0]), inputs

    def all_names(self) -> list[str]:
        """The names of all tensors, in order."""
        return [name for names in self.names for name in names]

    def value(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """The variable's value.

        Args:
            read: a function of the name that returns the tensor.
        """
        dtype = np.dtype(self.variable.dtype)
        if not self.is_matrix:
            return read(self.names[0][0]).astype(dtype)
        value = np.empty((len(self.names), *self.variable.shape[-2:]), dtype)
        outputs, _ = self.stored_shape()
        for expert, names in enumerate(self.names):
            for part, name in enumerate(names):
                value[expert, :, part * outputs : (part + 1) * outputs] = read(name).T
        return value.reshape(self.variable.shape)

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """The inverse of `value`: yields the names and values of the tensors, in order."""
        value = self.variable.numpy()
        if not self.is_matrix:
            yield self.names[0][0], value
            return
        outputs, _ = self.stored_shape()
        value = value.reshape((len(self.names), *value.shape[-2:]))
        for matrices, names in zip(value, self.names, strict=True):
            for part, name in enumerate(names):
                columns = matrices[:, part * outputs : (part + 1) * outputs]
                yield name, np.ascontiguousarray(columns.T)


def entries_of(model: keras.Model, shape: Shape) -> Iterator[Entry]:
    """Yields the `Entry` of each variable, from the embedding to the softmax.

    Args:
        model: a built `tfmoe.models.LanguageModel`.
        shape: its `Shape`.
    """
    yield plain(model.embedding.embeddings, EMBEDDING)
    for i, has_mixture in enumerate(shape.has_mixture):
        attention, network = model.blocks[2 * i], model.blocks[2 * i + 1]
        prefix = f"model.layers.{i}"
        yield plain(attention.normalization.scale, f"{prefix}.input_layernorm.weight")
        yield from attention_entries(attention.layer, f"{prefix}.self_attn", shape)
        yield plain(network.normalization.scale, f"{prefix}.post_attention_layernorm.weight")
        if has_mixture:
            yield from mixture_entries(network.layer, f"{prefix}.{shape.family.mixture}", shape)
        else:
            kernels = [layer.kernel for layer in network.layer.dense]
            yield from network_entries(kernels, [f"{prefix}.mlp"], shape)
    yield plain(model.normalization.scale, FINAL_NORM)
    if not shape.tie_embeddings:
        yield plain(model.softmax.kernel, HEAD)


def attention_entries(layer, prefix, shape):
    """The entries of a `SelfAttention`."""
    projections = {
        "q_proj": layer.query,
        "k_proj": layer.key,
        "v_proj": layer.value,
        "o_proj": layer.projection,
    }
    for name, projection in projections.items():
        yield Entry(projection.kernel, ((f"{prefix}.{name}.weight",),))
        if shape.projection_biases:
            yield plain(projection.bias, f"{prefix}.{name}.bias")
    if shape.family.normalizes_queries:
        yield plain(layer.query_norm.scale, f"{prefix}.q_norm.weight")
        yield plain(layer.key_norm.scale, f"{prefix}.k_norm.weight")


def mixture_entries(layer, prefix, shape):
    """The entries of a `MoE`."""
    yield Entry(layer.gate.gate_kernel, ((f"{prefix}.gate.weight",),))
    experts = [f"{prefix}.experts.{expert}" for expert in range(shape.num_experts)]
    yield from network_entries(layer.experts.kernels, experts, shape)


def network_entries(kernels, prefixes, shape):
    """The entries of the two kernels of SwiGLU networks."""
    gate_and_up, down = kernels
    family = shape.family
    both = (family.gate, family.up)
    names = tuple(tuple(f"{prefix}.{name}.weight" for name in both) for prefix in prefixes)
    yield Entry(gate_and_up, names)
    yield Entry(down, tuple((f"{prefix}.{family.down}.weight",) for prefix in prefixes))


def plain(variable, name):
    """The entry of a variable that is stored as it is."""
    return Entry(variable, ((name,),), is_matrix=False)
