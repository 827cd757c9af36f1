"""KerasHub models that are sparse when they are created."""

import contextlib
import functools
import importlib
from collections.abc import Iterator

from tfmoe.distribute.shards import sharded
from tfmoe.keras_hub.registry import FAMILIES
from tfmoe.keras_hub.replace import replace_layers
from tfmoe.keras_hub.version import check_version
from tfmoe.layers.expert_metrics import Mode, metrics_mode


@contextlib.contextmanager
def sparse_models(metrics: Mode = "summary") -> Iterator[None]:
    """KerasHub models created in this context are sparse, as after `sparsify`: by a constructor,
    by `from_preset`, or by loading a file.

    Under a `tfmoe.distribute.MixedStrategy` their experts are sharded over the devices, and a
    preset's weights are loaded into the shards. This is the only way to such a model: `sparsify`
    changes no variables.

    It concerns all threads. In nested contexts the innermost counts.

    Args:
        metrics: as for `sparsify`.

    Raises:
        MissingExtra: KerasHub is not installed.
        RuntimeError: the version of KerasHub was not tested.

    Example:
        >>> with sparse_models():
        ...     backbone = keras_hub.models.MixtralBackbone(
        ...         vocabulary_size=50, num_layers=1, num_query_heads=2, hidden_dim=8,
        ...         intermediate_dim=16, num_key_value_heads=1, num_experts=4)
        >>> len(mixtures_of(backbone))
        1
    """
    check_version()
    metrics = metrics_mode(metrics)
    with contextlib.ExitStack() as stack:
        for mixture in FAMILIES.values():
            stack.enter_context(replaced_build(mixture.builds_bank, build_sharded))
            whole = functools.partial(build_sparse, metrics=metrics)
            stack.enter_context(replaced_build(mixture.builds_whole or mixture.replaces, whole))
        yield


def build_sharded(layer, build):
    """Builds a bank of experts.

    Args:
        layer: the bank.
        build: a function without arguments that builds it.
    """
    with sharded():
        build()


def build_sparse(layer, build, metrics):
    """Builds a layer, and makes the mixtures in it sparse, unless they are.

    Args:
        layer: a layer of KerasHub.
        build: a function without arguments that builds it.
        metrics: as for `sparse_models`.
    """
    build()
    replace_layers(layer, metrics)


@contextlib.contextmanager
def replaced_build(name, replacement):
    """Replaces the method `build` of a class in a context. The innermost context counts.

    Args:
        name: of the class, with its module.
        replacement: function of the layer, and of a function without arguments that builds it.
    """
    module, _, name = name.rpartition(".")
    owner = getattr(importlib.import_module(module), name)
    outer = owner.build
    original = getattr(outer, "original", outer)

    @functools.wraps(original)
    def build(layer, *args, **options):
        replacement(layer, functools.partial(original, layer, *args, **options))

    build.original = original
    owner.build = build
    try:
        yield
    finally:
        owner.build = outer
