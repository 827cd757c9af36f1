"""Whether the graph being built must have shapes that do not depend on values.

XLA needs them. ONNX Runtime, LiteRT and TensorFlow.js have no counterpart of the operations that
produce other shapes, or only some.
"""

import contextlib
import threading

from tfmoe.distribute.tensorflow_internals import compiles_for_xla, converts_to_other_runtime


class _State(threading.local):
    is_portable = False


_state = _State()


def static_shapes() -> bool:
    """Whether layers must compute with shapes that only depend on the shapes of their inputs.

    It is true for code that XLA compiles, within `portable_operations`, and while
    `keras.Model.export` (`format="onnx"` or `"litert"`), tf2onnx or `tf.lite.TFLiteConverter`
    traces a model.
    """
    return _state.is_portable or compiles_for_xla() or converts_to_other_runtime()


def portable_only() -> bool:
    """Whether layers must use the operations of other runtimes only: `static_shapes`, but not for
    XLA, which also has tensor arrays and gradients.
    """
    return static_shapes() and not compiles_for_xla()


@contextlib.contextmanager
def portable_operations():
    """Builds graphs of operations that other runtimes have: ONNX Runtime, LiteRT, TensorFlow.js.

    Only graphs that this thread traces within the context are affected. `keras.Model.export` with
    `format="onnx"` or `"litert"` does not need it.

    Example:
        >>> import tensorflow as tf
        >>> from tfmoe.distribute.static_shapes import portable_operations
        >>> from tfmoe.layers import MoE
        >>> layer = MoE(num_experts=4, hidden_units=8)
        >>> with portable_operations():
        ...     function = tf.function(layer).get_concrete_function(tf.TensorSpec([None, 3]))
        >>> "DynamicPartition" in {op.type for op in function.graph.get_operations()}
        False
    """
    was_portable, _state.is_portable = _state.is_portable, True
    try:
        yield
    finally:
        _state.is_portable = was_portable
