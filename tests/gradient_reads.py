"""Counts the tensors of the forward pass that the backward pass reads, in a traced gradient.

Axes: B batch, S steps, M source steps, D width.
"""

import tensorflow as tf

# Weights, sums of gradients, inputs, and views of tensors that are counted anyway.
UNCOUNTED = ("Const", "ReadVariableOp", "AddN", "Reshape", "Placeholder")


def read_by_gradient(layer, *inputs, call, by_hand=False):
    """The tensors of the forward pass that the gradient of a built layer reads, without the inputs:
    `{name: size}`.

    Args:
        layer: the layer.
        *inputs: float32 arrays.
        call: a function of the inputs that calls the layer.
        by_hand: whether the layer has hand-written gradients: their operations are outside of the
            layer's scope, and read views of tensors that nothing else reads.
    """

    def gradient(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(call(*inputs)) + sum(layer.losses)
        variables = [variable.value for variable in layer.trainable_variables]
        gradients = tape.gradient(loss, [*inputs, *variables])
        return [tf.convert_to_tensor(value) for value in gradients if value is not None]

    specs = [tf.TensorSpec(array.shape, tf.float32) for array in inputs]
    function = tf.compat.v1.wrap_function(gradient, specs)

    def is_of_gradient(op):
        is_forward = op.name.startswith(layer.name) or op.name in ("Sum", "add")
        return "gradient_tape" in op.name or (by_hand and not is_forward)

    def viewed(tensor):
        while by_hand and tensor.op.type == "Reshape":
            tensor = tensor.op.inputs[0]
        return tensor

    read = {
        viewed(tensor).name: viewed(tensor)
        for op in function.graph.get_operations()
        for tensor in op.inputs
        if is_of_gradient(op) and not is_of_gradient(viewed(tensor).op)
        if tensor.dtype == tf.float32 and viewed(tensor).op.type not in UNCOUNTED
    }
    with function.graph.as_default():  # the number of rows may depend on the routing
        sizes = {name: tf.size(tensor) for name, tensor in read.items()}
    feeds = function.inputs[: len(inputs)]
    sizes = function.prune(feeds, sizes)(*map(tf.constant, inputs))
    return {name: int(size) for name, size in sizes.items()}


def step_by_step(layer):
    """A function that calls a layer step by step. A loop would hide its tensors in lists.

    Args:
        layer: a `tfmoe.layers.Block`.

    Returns:
        A function of inputs `[B, S, D]`, and of a memory `[B, M, D]` if the layer reads one.
    """

    def call(inputs, *memory):
        with tf.name_scope(layer.name):
            prepared = [layer.prepared(*memory)] if layer.needs_memory else []
            state, outputs = layer.initial_state(inputs.shape[0]), []
            for t in range(inputs.shape[1]):
                output, state, *_ = layer.step(inputs[:, t], state, *prepared)
                outputs.append(output)
            return tf.stack(outputs, axis=1)

    return call


def kept(layer, inputs, memory=None, recompute=False):
    """The number of float32 values that a layer reports to keep for the backward pass."""
    batch, steps, width = inputs.shape
    attended = (inputs if memory is None else memory).shape[1]
    position_bytes = layer.kept_for_backward(width, attended).total(recompute)
    source_bytes = attended * layer.kept_of_source(width)
    return batch * (steps * position_bytes + source_bytes) / 4
