"""The uses of TensorFlow's and Keras' private APIs by the mixed strategy and the layers.

TensorFlow's collective strategy provides data parallelism on one host or several: replica threads,
mirrored variables, all-reduce with NCCL or a ring, a cluster. This package adds sharded variables,
collectives other than all-reduce, and random states that differ by replica. The tests in
`tests/distribute/tensorflow_internals` pin every private name.

Outside of this package a private name is used only in modules that replace a method of Keras
(`keras_files`, `keras_models`, `keras_optimizer`, `keras_variables`) and in classes derived from a
Keras class.
"""

from tfmoe.distribute.tensorflow_internals.collective_operations import (
    abort_collectives,
    collective,
    host_sum,
)
from tfmoe.distribute.tensorflow_internals.contexts import (
    compiles_for_xla,
    converts_to_other_runtime,
    devices_are_initialized,
    global_replica_index,
    graph_in_call,
    in_recompute_grad,
    in_step,
    in_symbolic_call,
    in_while_loop,
    replica_context,
)
from tfmoe.distribute.tensorflow_internals.extended import MixedExtended
from tfmoe.distribute.tensorflow_internals.keras_layers import (
    LossesOfReplicas,
    NoSavedModel,
    accumulation,
    add_metric,
    call_context,
    deferred_variables,
    initializer_of,
    inner_layers,
    outermost_layer,
    remove_metric,
    training_of_call,
)
from tfmoe.distribute.tensorflow_internals.variables import (
    ReplicaSeeds,
    ShardedVariable,
    assign_rows,
)

__all__ = [
    "LossesOfReplicas",
    "MixedExtended",
    "NoSavedModel",
    "ReplicaSeeds",
    "ShardedVariable",
    "abort_collectives",
    "accumulation",
    "add_metric",
    "assign_rows",
    "call_context",
    "collective",
    "compiles_for_xla",
    "converts_to_other_runtime",
    "deferred_variables",
    "devices_are_initialized",
    "global_replica_index",
    "graph_in_call",
    "host_sum",
    "in_recompute_grad",
    "in_step",
    "in_symbolic_call",
    "in_while_loop",
    "initializer_of",
    "inner_layers",
    "outermost_layer",
    "remove_metric",
    "replica_context",
    "training_of_call",
]
