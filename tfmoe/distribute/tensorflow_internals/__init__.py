"""Everything of TensorFlow's and Keras' private interfaces that the mixed strategy and the layers
are built on.

TensorFlow's collective strategy already has what data parallelism needs, on one host or many:
replica threads, mirrored variables, all-reduce by NCCL or ring, a cluster. Added here are variables
of which each replica holds a part, collectives other than all-reduce, and random states that differ
by replica. The tests in `tests/distribute/tensorflow_internals` name what is relied upon.

Elsewhere a private name is used only where a method of Keras is replaced (`keras_models`,
`keras_optimizer`, `keras_variables`) or where a class derives from one of Keras.
"""

from tfmoe.distribute.tensorflow_internals.collective_operations import (
    abort_collectives,
    collective,
    host_sum,
)
from tfmoe.distribute.tensorflow_internals.contexts import (
    compiles_for_xla,
    in_loop_of_call,
    in_step,
    in_while_loop,
    initialised,
    replica_context,
    replica_number,
)
from tfmoe.distribute.tensorflow_internals.extended import MixedExtended
from tfmoe.distribute.tensorflow_internals.keras_layers import inner_layers, outermost_layer
from tfmoe.distribute.tensorflow_internals.variables import ReplicaSeeds, ShardedVariable

__all__ = [
    "MixedExtended",
    "ReplicaSeeds",
    "ShardedVariable",
    "abort_collectives",
    "collective",
    "compiles_for_xla",
    "host_sum",
    "in_loop_of_call",
    "in_step",
    "in_while_loop",
    "initialised",
    "inner_layers",
    "outermost_layer",
    "replica_context",
    "replica_number",
]
