"""The factored second moment of App. D, for optimizers that divide a gradient by its root.

For a matrix `[I, O]` an optimizer keeps an average `V` of the squared gradients. Here only the
averages of its rows and of its columns are kept,

    rows_i = mean_j V_ij        columns_j = mean_i V_ij

and the estimate of V is their outer product divided by the mean of either:

    V_ij ≈ rows_i · columns_j / mean_i(rows_i)

It is V itself where V is a product `a_i · b_j`, so for squared gradients `a_i(t) · b_j(t)` of which
one factor at least keeps its direction from step to step. `[..., I, O]` is a stack of matrices,
each factored by itself; slots have the leading axes of the variable, and are sharded like it.

Axes: E experts, I inputs (rows), O outputs (columns).
"""

import difflib
import re

import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import compiles_for_xla

# As `tfmoe.layers.Experts` names its weights; `tfmoe.layers.MoE` names that layer "experts".
EXPERT_KERNEL = re.compile(r"(^|/)experts(_\d+)?/kernel_\d+$")
EXPERT_BIAS = re.compile(r"(^|/)experts(_\d+)?/bias_\d+$")

# Rules by name: whether a variable of this path and shape is factored.
RULES = {
    "experts": lambda path, shape: EXPERT_KERNEL.search(path) is not None,
    "matrices": lambda path, shape: len(shape) >= 2 and EXPERT_BIAS.search(path) is None,
    "none": lambda path, shape: False,
}

# What the update of a stack works on at a time. On a CPU it stays in the cache; on a GPU it is
# large enough that starting the operations costs nothing.
BLOCK_BYTES = {"CPU": 2 * 2**20, "GPU": 128 * 2**20}


def checked_rule(factored):
    """Checks the choice of variables to factor.

    Args:
        factored: a name of `RULES`, or a list of fragments of paths.

    Returns:
        The name, or the fragments as a list.

    Raises:
        ValueError: if it is neither.
    """
    if isinstance(factored, str) and factored in RULES:
        return factored
    is_list = isinstance(factored, (list, tuple)) and len(factored) > 0
    if is_list and all(isinstance(fragment, str) and fragment for fragment in factored):
        return list(factored)
    names = ", ".join(repr(name) for name in RULES)
    close = difflib.get_close_matches(str(factored), RULES, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(
        f"factored must be one of {names} or a list of fragments of the variables' paths, such as "
        f"['experts/kernel'], got {factored!r}{hint}"
    )


def is_factored(path, shape, factored):
    """Whether a rule chooses a variable.

    Args:
        path: of the variable, such as `"moe/experts/kernel_0"`.
        shape: its shape.
        factored: a name of `RULES`, or a list of fragments: then every variable with one of them in
            its path is chosen.

    Raises:
        ValueError: if it is chosen and has fewer than two axes.
    """
    if isinstance(factored, str):
        chosen = RULES[factored](path, shape)
    else:
        chosen = any(fragment in path for fragment in factored)
    if chosen and len(shape) < 2:
        raise ValueError(
            f"only matrices and stacks of matrices can be factored, but {path} has shape "
            f"{tuple(shape)}; choose variables of rank 2 or more, got factored={factored!r}"
        )
    return chosen


def choose(variables, factored):
    """Applies a rule to the variables of an optimizer.

    Args:
        variables: list of `keras.Variable`.
        factored: as for `is_factored`.

    Returns:
        List of bool.

    Raises:
        ValueError: as `is_factored`, and for a fragment that is in no path.
    """
    paths = [path_of(variable) for variable in variables]
    for fragment in [] if isinstance(factored, str) else factored:
        if not any(fragment in path for path in paths):
            close = difflib.get_close_matches(fragment, paths, n=3, cutoff=0) or ["none"]
            raise ValueError(
                f"factored names {fragment!r}, which is in no variable's path; paths are such as "
                f"{', '.join(close)}"
            )
    return [
        is_factored(path, variable.shape, factored)
        for path, variable in zip(paths, variables, strict=True)
    ]


def path_of(variable):
    """`moe/experts/kernel_0` of a Keras variable, the name of another one."""
    return getattr(variable, "path", None) or variable.name


def slot_shapes(shape):
    """Shapes `[..., I]` and `[..., O]` of the two slots of a variable `[..., I, O]`."""
    return tuple(shape[:-1]), (*shape[:-2], shape[-1])


def add_slots(optimizer, variable, initializer="zeros"):
    """Adds the two slots of a variable to a Keras optimizer, on the variable's devices.

    They are float32 where the variable has half precision: a moving average would stand still.

    Args:
        optimizer: a `keras.optimizers.Optimizer`.
        variable: `keras.Variable` `[..., I, O]`.
        initializer: of the slots.

    Returns:
        `rows` and `columns`, `keras.Variable`s of `slot_shapes`.
    """
    dtype = variable.dtype
    dtype = "float32" if tf.as_dtype(dtype).size < 4 else dtype
    native = getattr(variable, "value", variable)
    name = path_of(variable).replace("/", "_")
    with optimizer._distribution_strategy.extended.colocate_vars_with(native):
        return tuple(
            optimizer.add_variable(shape, initializer, dtype=dtype, name=f"{name}_{kind}")
            for shape, kind in zip(slot_shapes(variable.shape), ("rows", "columns"), strict=True)
        )


def factored_update(
    optimizer, variable, gradient, slots, *, accumulate, denominator, rate, momentum=None
):
    """One step: `slots ← accumulate(slots, means of gradient²)`, then
    `variable ← variable - rate · numerator / denominator(V)`.

    A large stack is updated in blocks of experts that fit in the cache, so that no second tensor of
    the variable's size is made beside the gradient. An expert with no gradient is left alone, since
    0 would be subtracted from it; its averages go on.

    Args:
        optimizer: the `keras.optimizers.Optimizer` to which the slots belong.
        variable: `tf.Variable` `[..., I, O]`, or one device's part of it.
        gradient: of the same shape; `tf.IndexedSlices` are made dense.
        slots: `rows` and `columns`, from `add_slots`.
        accumulate: `(average, mean of squares) → average`, of any shape.
        denominator: `(a, b) → [..., I, O]` for the estimate `V = a · b`, with a `[..., I, 1]` and b
            `[..., 1, O]`.
        rate: scalar tensor.
        momentum: the numerator if it is not the gradient, a tensor of the variable's shape.
    """
    rows, columns = (tf.convert_to_tensor(slot) for slot in slots)
    gradient = tf.cast(tf.convert_to_tensor(gradient), rows.dtype)

    def new_averages(gradient, rows, columns):
        squares = tf.square(gradient)
        row_means, column_means = tf.reduce_mean(squares, -1), tf.reduce_mean(squares, -2)
        return accumulate(rows, row_means), accumulate(columns, column_means), row_means

    def change(numerator, rows, columns):
        a = tf.math.divide_no_nan(rows, tf.reduce_mean(rows, -1, keepdims=True))
        # In this order every operation after the first writes over its input.
        return numerator / denominator(a[..., None], columns[..., None, :]) * rate

    block = block_length(variable)
    if block is None:
        rows, columns, _ = new_averages(gradient, rows, columns)
        numerator = gradient if momentum is None else momentum
        optimizer.assign_sub(variable, change(numerator, rows, columns))
        optimizer.assign(slots[0], rows)
        optimizer.assign(slots[1], columns)
        return

    length = variable.shape[0]
    num_blocks = -(-length // block)
    new_rows, new_columns = (
        tf.TensorArray(
            slot.dtype, num_blocks, element_shape=[None, *slot.shape[1:]], infer_shape=False
        )
        for slot in (rows, columns)
    )

    def body(i, new_rows, new_columns):
        begin, end = i * block, tf.minimum((i + 1) * block, length)
        part = gradient[begin:end]
        r, c, row_means = new_averages(part, rows[begin:end], columns[begin:end])
        numerator = part if momentum is None else momentum[begin:end]

        def update():
            values = tf.cast(change(numerator, r, c), variable.dtype)
            variable.scatter_sub(tf.IndexedSlices(values, tf.range(begin, end)))
            return True

        if momentum is None:
            # Not "above 0": NaN must reach the weights.
            tf.cond(tf.reduce_any(tf.not_equal(row_means, 0)), update, lambda: False)
        else:
            update()
        return i + 1, new_rows.write(i, r), new_columns.write(i, c)

    _, new_rows, new_columns = tf.while_loop(
        lambda i, *_: i < num_blocks, body, [0, new_rows, new_columns], parallel_iterations=1
    )
    # `scatter_sub` makes every later read of the variable a copy, until told otherwise.
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)
    optimizer.assign(slots[0], new_rows.concat())
    optimizer.assign(slots[1], new_columns.concat())


def block_length(variable):
    """How many matrices of a stack to update at a time; `None` for all at once."""
    if variable.shape.rank < 3:
        return None
    if compiles_for_xla():
        return None  # XLA has no such loop, and merges the operations itself
    block_bytes = BLOCK_BYTES["GPU" if "GPU" in variable.device else "CPU"]
    matrix_bytes = variable.shape[1:].num_elements() * variable.dtype.size
    block = max(1, block_bytes // max(1, matrix_bytes))
    return None if block >= variable.shape[0] else block
