"""tfmoe: the sparsely-gated mixture of experts (Shazeer et al. 2017) for TensorFlow and Keras.

    from tfmoe import MoE, NoisyTopK

The names below are imported when they are first used: `import tfmoe` loads no TensorFlow, and
`from tfmoe import MoE` loads Keras, TensorFlow and the layers. The packages of tfmoe have more:
`tfmoe.layers`, `tfmoe.gating`, `tfmoe.inspection` and so on.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tfmoe.config.builders import build_model
    from tfmoe.config.loader import load_config
    from tfmoe.distribute import MixedStrategy
    from tfmoe.gating import (
        Batchwise,
        BiasBalanced,
        ExpertChoice,
        ExpertThreshold,
        Gate,
        GShard,
        Hash,
        Hierarchical,
        NoisyTopK,
        QuantileBalanced,
        Softmax,
        Switch,
        TopK,
    )
    from tfmoe.layers import MoE, MoELSTM, MultiGateMoE, ProjectedLSTM, SoftMoE
    from tfmoe.optimizers import FactoredAdagrad, FactoredAdam
    from tfmoe.tasks.evaluate import evaluate_run
    from tfmoe.tasks.export import export_run
    from tfmoe.tasks.runs import load_run
    from tfmoe.tasks.train import train_run

__version__ = "0.1.0"
__all__ = [
    "Batchwise",
    "BiasBalanced",
    "ExpertChoice",
    "ExpertThreshold",
    "FactoredAdagrad",
    "FactoredAdam",
    "GShard",
    "Gate",
    "Hash",
    "Hierarchical",
    "MixedStrategy",
    "MoE",
    "MoELSTM",
    "MultiGateMoE",
    "NoisyTopK",
    "ProjectedLSTM",
    "QuantileBalanced",
    "SoftMoE",
    "Softmax",
    "Switch",
    "TopK",
    "__version__",
    "build_model",
    "evaluate_run",
    "export_run",
    "load_config",
    "load_run",
    "train_run",
]

_HOMES = {
    "config": ("build_model", "load_config"),
    "distribute": ("MixedStrategy",),
    "gating": (
        "Batchwise",
        "BiasBalanced",
        "ExpertChoice",
        "ExpertThreshold",
        "GShard",
        "Gate",
        "Hash",
        "Hierarchical",
        "NoisyTopK",
        "QuantileBalanced",
        "Softmax",
        "Switch",
        "TopK",
    ),
    "layers": ("MoE", "MoELSTM", "MultiGateMoE", "ProjectedLSTM", "SoftMoE"),
    "optimizers": ("FactoredAdagrad", "FactoredAdam"),
    "tasks": ("evaluate_run", "export_run", "load_run", "train_run"),
}
_HOME = {name: package for package, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:  # a checker would believe that every name exists

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
