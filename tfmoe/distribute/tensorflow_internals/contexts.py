"""The context that code runs in: a replica, a step of Keras, a loop, a function for XLA."""

import re
import sys

import tensorflow as tf
from keras.src.backend.common.symbolic_scope import in_symbolic_scope
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.eager import context
from tensorflow.python.framework import func_graph
from tensorflow.python.ops import (
    control_flow_util,
    control_flow_v2_func_graphs,
    custom_gradient,
)

RECOMPUTE = "recompute_grad.<locals>."  # the functions within `tf.recompute_grad`
# The modules that trace a model to convert it for another runtime.
CONVERTERS = re.compile(r"keras\.src\.export\.(onnx|litert)|tf2onnx(\..*)?|tensorflow\.lite\..*")


def replica_context():
    """The current replica context of a strategy, or `None` outside of a strategy's replicas."""
    replica = tf.distribute.get_replica_context()
    return replica if replica is not None and tf.distribute.has_strategy() else None


def in_step():
    """Whether code runs within `strategy.run`.

    Keras runs every step of `fit`, `evaluate` and `predict` in it, with the default strategy too. A
    plain call of a model and an export run outside of it.
    """
    replica = tf.distribute.get_replica_context()
    return replica is not None and not isinstance(replica, distribute_lib._DefaultReplicaContext)


def compiles_for_xla():
    """Whether this code is being traced into a function that XLA compiles: a
    `tf.function(jit_compile=True)`, a function called by one, or a step of a model after
    `compile(jit_compile=True)`.
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def in_symbolic_call():
    """Whether Keras calls layers to learn the shapes of their outputs: nothing is computed."""
    return in_symbolic_scope()


def in_while_loop():
    """Whether this code is being traced into the body of a `tf.while_loop`, at any depth."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if isinstance(graph, control_flow_v2_func_graphs.WhileBodyFuncGraph):
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def graph_in_call(name) -> str | None:
    """What this code is being traced into inside the current call of a Keras layer: `"loop"` for
    the body of a `tf.while_loop`, `"branch"` for that of a `tf.cond`, `"function"` for another
    `tf.function`; `None` for nothing. What is around the whole call, such as the loop of
    `compile(steps_per_execution=…)`, does not count.

    Keras opens a name scope for a call. If a graph starts inside the call, the graph around it is
    still in that scope.

    Args:
        name: the name of the outermost layer or model being called.
    """
    scope = re.compile(rf"(^|/){re.escape(name)}(_\d+)?(/|$)")
    graph, found = tf.compat.v1.get_default_graph(), None
    while isinstance(graph, func_graph.FuncGraph):
        if scope.search(graph.outer_graph.get_name_scope()):
            if isinstance(graph, control_flow_v2_func_graphs.WhileBodyFuncGraph):
                return "loop"
            is_branch = isinstance(graph, control_flow_v2_func_graphs.CondBranchFuncGraph)
            found = found or ("branch" if is_branch else "function")
        graph = graph.outer_graph
    return found


def in_recompute_grad():
    """Whether this code runs in a function of `tf.recompute_grad`, in the forward pass or again in
    the backward pass. `keras.RematScope` uses it too. A `tf.function` that was traced before is not
    recognized.

    TensorFlow does not record this, so the call stack is searched for its code.
    """
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if code.co_qualname.startswith(RECOMPUTE) and code.co_filename == custom_gradient.__file__:
            return True
        frame = frame.f_back
    return False


def converts_to_other_runtime():
    """Whether this code is being traced by Keras' export to ONNX or LiteRT, by tf2onnx, or by
    `tf.lite.TFLiteConverter`.

    None of them records this, so the call stack is searched for their modules. Eager code is not
    traced, and pays no search.
    """
    if tf.executing_eagerly():
        return False
    frame = sys._getframe(1)
    while frame is not None:
        if CONVERTERS.fullmatch(frame.f_globals.get("__name__", "")):
            return True
        frame = frame.f_back
    return False


def local_replica_index(replica):
    """The index of a replica context among those of its process."""
    return tf.get_static_value(replica._replica_id)


def global_replica_index(replica):
    """The index of a replica context of a `MixedStrategy` among all replicas."""
    return replica.strategy.extended._get_replica_id_in_sync_group(local_replica_index(replica))


def devices_are_initialized():
    """Whether TensorFlow has created its devices, so that they cannot be changed anymore."""
    return context.context()._initialized
