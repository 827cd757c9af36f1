"""Replaces the evaluation of all experts in KerasHub models by that of the selected ones."""

import functools

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import inner_layers
from tfmoe.keras_hub.placement import check_densifiable, check_sparsifiable
from tfmoe.keras_hub.registry import FAMILIES, sparse_class_of
from tfmoe.keras_hub.version import check_version
from tfmoe.layers.expert_metrics import Mode, metrics_mode
from tfmoe.layers.mixture_layer import layers_within, mixtures_of

# Keras' and KerasHub's attributes for functions that they traced.
TRACED = ("train_function", "test_function", "predict_function", "generate_function")


def sparsify(model: keras.Layer, metrics: Mode = "summary") -> keras.Layer:
    """Makes a KerasHub model compute only the experts that a token selects.

    KerasHub computes every expert for every token, and multiplies most results by 0. This replaces
    the computation in place, on the same variables: outputs, losses and gradients are the same up
    to rounding. Variables, their names and configurations do not change, so files and presets of
    the model can be loaded without tfmoe, and the reverse.

    The layers with experts become mixtures of tfmoe: `fit` and `evaluate` report the use of
    experts, the functions of `tfmoe.inspection` read it, and their balancing losses are those of
    the global batch. As in KerasHub, padding is routed; it counts in the metrics.

    Args:
        model: a Mixtral, Qwen-MoE, Qwen3-MoE, Qwen3.5-MoE, gpt-oss or Gemma 4 model of KerasHub: a
            backbone, a task, or a Keras model with one of them inside. Give the outermost model:
            functions that Keras traced for a model around it, such as that of `generate`, are not
            renewed.
        metrics: `"summary"`, `"all"` or `None`: which metrics of the experts `fit` and `evaluate`
            report, see `tfmoe.layers.MoE`.

    Returns:
        The model.

    Raises:
        MissingExtra: KerasHub is not installed.
        RuntimeError: the version of KerasHub was not tested.
        ValueError: `model` is not a Keras layer, has no experts, has experts of another kind, is
            sparse already, or is not built; or each of several devices of a `MixedStrategy` holds
            all experts: create such a model in `sparse_models`.

    Example:
        >>> backbone = keras_hub.models.MixtralBackbone(
        ...     vocabulary_size=50, num_layers=1, num_query_heads=2, hidden_dim=8,
        ...     intermediate_dim=16, num_key_value_heads=1, num_experts=4)
        >>> model = sparsify(backbone)
        >>> model is backbone
        True
    """
    check_version()
    metrics = metrics_mode(metrics)
    check_model(model)
    replaceable = with_parents(model)
    check_replaceable(model, replaceable)
    strategy = strategy_of(model)
    check_sparsifiable(strategy, [layer for layer, _ in replaceable])
    with strategy.scope():
        replace_layers(model, metrics)
    forget_traces(model)
    return model


def replace_layers(model, metrics):
    """Makes the layers of `FAMILIES` in a model sparse, without checks. Sparse layers stay.

    Args:
        model: a Keras layer.
        metrics: as for `sparsify`.
    """
    for layer, parent in with_parents(model):
        mixin = sparse_class_of(layer)
        layer.__class__ = sparse_class(mixin, type(layer))
        bank = layer.bank()
        if bank is not None:
            bank.__class__ = sparse_class(mixin.bank_class, type(bank))
        layer.make_sparse(parent, metrics)


def densify(model: keras.Layer) -> keras.Layer:
    """Undoes `sparsify`: KerasHub's layers compute all experts again.

    Args:
        model: a model after `sparsify`.

    Returns:
        The model.

    Raises:
        ValueError: `model` is not a Keras layer, or no layer is sparse.
    """
    check_model(model)
    sparse = [layer for layer in mixtures_of(model).values() if hasattr(layer, "make_dense")]
    if not sparse:
        raise ValueError(f"{model.name} has no layer that sparsify changed")
    check_densifiable(model, sparse)
    for layer in sparse:
        bank = layer.bank()
        if bank is not None:
            bank.__class__ = dense_class(bank)
        layer.make_dense()
        layer.__class__ = dense_class(layer)
    forget_traces(model)
    return model


@functools.cache
def sparse_class(mixin, dense):
    """The class of KerasHub with a mixin before it. Keras saves it by the name of KerasHub's.

    Args:
        mixin: a `SparseMixture` or a `BankExperts`.
        dense: the class of KerasHub.
    """
    names = {"__module__": dense.__module__, "__qualname__": f"Sparse{dense.__qualname__}"}
    return type(dense.__name__, (mixin, dense), names)


def dense_class(layer):
    """The class of KerasHub, for a layer of a `sparse_class`."""
    return type(layer).__bases__[1]


def with_parents(model):
    """The layers of `FAMILIES` in a model, once each: a list of pairs of a layer and the layer
    around it (`None` for the model itself).
    """
    pairs = {id(model): (model, None)}
    for parent in (model, *layers_within(model)):
        for child in inner_layers(parent):
            pairs.setdefault(id(child), (child, parent))
    return [pair for pair in pairs.values() if sparse_class_of(pair[0]) is not None]


def strategy_of(model):
    """The strategy in whose scope a model was created."""
    return getattr(model, "distribute_strategy", None) or tf.distribute.get_strategy()


def forget_traces(model):
    """Makes Keras trace a model again, and the models within it."""
    for layer in (model, *layers_within(model)):
        if isinstance(layer, keras.Model):
            for name in TRACED:
                if hasattr(layer, name):
                    setattr(layer, name, None)


def check_model(model):
    """Raises a `ValueError` if an argument is not a Keras layer."""
    if not isinstance(model, keras.Layer):
        raise ValueError(f"model must be a KerasHub model, got {type(model).__name__}")


def check_replaceable(model, replaceable):
    """Raises a `ValueError` if a model cannot be made sparse.

    Args:
        model: a Keras layer.
        replaceable: the pairs of `with_parents`.
    """
    if any(hasattr(layer, "make_dense") for layer in mixtures_of(model).values()):
        raise ValueError(f"{model.name} is sparse already: densify(model) undoes it")
    if not replaceable:
        known = ", ".join(FAMILIES)
        others = sorted({type(layer).__name__ for layer in layers_with_experts(model)})
        if others:
            raise ValueError(
                f"{model.name} has experts in {', '.join(others)}, which sparsify does not know; "
                f"it knows the models of KerasHub: {known}"
            )
        raise ValueError(f"{model.name} has no experts: sparsify changes models of {known}")
    for layer, parent in replaceable:
        if parent is None and sparse_class_of(layer).needs_parent:
            raise ValueError(f"{layer.name} has no router: give sparsify the decoder around it")
    unbuilt = [layer.name for layer, _ in replaceable if not layer.built]
    if unbuilt:
        raise ValueError(
            f"{', '.join(unbuilt)} must be built before sparsify: call {model.name} with a batch"
        )


def layers_with_experts(model):
    """The layers in a model whose attribute `num_experts` is not 0 or `None`."""
    return [
        layer for layer in (model, *layers_within(model)) if getattr(layer, "num_experts", None)
    ]
