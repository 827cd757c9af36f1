"""Where code runs: in which replica, in a step of Keras, in a loop, in a function for XLA."""

import re

import tensorflow as tf
from tensorflow.python.distribute import distribute_lib
from tensorflow.python.eager import context
from tensorflow.python.ops import control_flow_util, control_flow_v2_func_graphs


def replica_context():
    """The replica context of a strategy that code runs in, or `None` outside of any."""
    found = tf.distribute.get_replica_context()
    return found if found is not None and tf.distribute.has_strategy() else None


def in_step():
    """Whether code runs within `strategy.run`, in which Keras takes every step of fit, evaluate and
    predict, with the default strategy too; a plain call or an export of a model is outside.
    """
    found = tf.distribute.get_replica_context()
    return found is not None and not isinstance(found, distribute_lib._DefaultReplicaContext)


def compiles_for_xla():
    """Whether this code is being traced into a function that XLA compiles:
    `tf.function(jit_compile=True)`, also one around the function that is traced, and what Keras
    makes of `compile(jit_compile=True)`.
    """
    return control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph())


def in_while_loop():
    """Whether this code is being traced into the body of a `tf.while_loop`, however deep."""
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if isinstance(graph, control_flow_v2_func_graphs.WhileBodyFuncGraph):
            return True
        graph = getattr(graph, "outer_graph", None)
    return False


def in_loop_of_call(name):
    """Whether this code is being traced into the body of a `tf.while_loop` that began within the
    running call of a Keras layer; not if the loop has the whole call in it, as that of
    `compile(steps_per_execution=…)`.

    Keras opens a name scope for a call: where a loop began within it, the graph around the body is
    still in that scope.

    Args:
        name: of the outermost layer or model that is being called.
    """
    scope = re.compile(rf"(^|/){re.escape(name)}(_\d+)?(/|$)")
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        outer = getattr(graph, "outer_graph", None)
        is_body = isinstance(graph, control_flow_v2_func_graphs.WhileBodyFuncGraph)
        if is_body and scope.search(outer.get_name_scope()):
            return True
        graph = outer
    return False


def local_replica(found):
    """The number of a replica among those of its process, from its replica context."""
    return tf.get_static_value(found._replica_id)


def replica_number(found):
    """The number of a replica of a `MixedStrategy` among all, from its replica context."""
    return found.strategy.extended._get_replica_id_in_sync_group(local_replica(found))


def initialised():
    """Whether TensorFlow has made its devices already, so that they cannot be changed."""
    return context.context()._initialized
