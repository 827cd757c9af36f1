"""What the backward pass reads of the forward pass, counted in a traced gradient.

Axes: B batch, S steps, M source steps, D width.
"""

import tensorflow as tf

# Weights, sums of gradients, inputs, and other views of tensors that are counted anyway.
UNCOUNTED = ("Const", "ReadVariableOp", "AddN", "Reshape", "Placeholder")


def read_by_gradient(layer, *inputs, call, by_hand=False):
    """What the gradient of a built layer reads of the forward pass, in numbers: `{tensor: size}`,
    but for the inputs themselves.

    Args:
        inputs: float32 arrays.
        call: a function of these inputs, with which the layer is called.
        by_hand: whether gradients are written by hand: their operations are outside of the layer's
            scope, and read views of tensors that nothing else reads.
    """

    def gradient(*inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            loss = tf.reduce_sum(call(*inputs)) + sum(layer.losses)
        variables = [each.value for each in layer.trainable_variables]
        found = tape.gradient(loss, [*inputs, *variables])
        return [tf.convert_to_tensor(each) for each in found if each is not None]

    specs = [tf.TensorSpec(each.shape, tf.float32) for each in inputs]
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
    with function.graph.as_default():  # some have as many rows as experts get
        sizes = {name: tf.size(tensor) for name, tensor in read.items()}
    feeds = function.inputs[: len(inputs)]
    found = function.prune(feeds, sizes)(*map(tf.constant, inputs))
    return {name: int(size) for name, size in found.items()}


def step_by_step(layer):
    """A function that calls a layer in steps; in a loop its tensors would be hidden in lists.

    Args:
        layer: a `tfmoe.layers.Block`.

    Returns:
        A function of inputs `[B, S, D]`, and of a memory `[B, M, D]` if the layer needs one.
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
    """What a layer says that it keeps for a batch, in float32 numbers."""
    batch, steps, width = inputs.shape
    attended = (inputs if memory is None else memory).shape[1]
    of_position = layer.kept_for_backward(width, attended).total(recompute)
    of_source = attended * layer.kept_of_source(width)
    return batch * (steps * of_position + of_source) / 4
