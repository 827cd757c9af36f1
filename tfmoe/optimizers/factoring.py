"""The factored second moment of App. D, for optimizers that divide a gradient by its root.

For a matrix `[I, O]` an optimizer keeps an average `V` of the squared gradients. Here only the
means of its rows and of its columns are kept,

    rows_i = mean_j V_ij        columns_j = mean_i V_ij

and the estimate of V is their outer product, divided by the mean of either:

    V_ij ≈ rows_i · columns_j / mean_i(rows_i)

The estimate is exact if V is a product `a_i · b_j`, that is for squared gradients
`a_i(t) · b_j(t)` with at least one factor whose direction is the same in all steps. `[..., I, O]`
is a stack of matrices, which are factored separately. Slots have the leading axes of the variable,
and are sharded like it.

Axes: E experts, I inputs (rows), O outputs (columns).
"""

import difflib
import re
from collections.abc import Callable

import keras
import tensorflow as tf

from tfmoe.distribute.tensorflow_internals import compiles_for_xla

LearningRate = float | keras.optimizers.schedules.LearningRateSchedule | Callable

# The names of the weights of `tfmoe.layers.Experts`; `tfmoe.layers.MoE` names this layer "experts".
EXPERT_KERNEL = re.compile(r"(^|/)experts(_\d+)?/kernel_\d+$")
EXPERT_BIAS = re.compile(r"(^|/)experts(_\d+)?/bias_\d+$")

# Rules by name: whether a variable with this path and shape is factored.
RULES = {
    "experts": lambda path, shape: EXPERT_KERNEL.search(path) is not None,
    "matrices": lambda path, shape: len(shape) >= 2 and EXPERT_BIAS.search(path) is None,
    "none": lambda path, shape: False,
}

# The size of the blocks in which a stack is updated. On a CPU a block stays in the cache; on a GPU
# it is large enough that the cost of launching kernels is negligible.
BLOCK_BYTES = {"CPU": 8 * 2**20, "GPU": 128 * 2**20}


def validate_rule(factored):
    """Checks the argument that selects the factored variables.

    Args:
        factored: a name in `RULES`, or a list of path fragments.

    Returns:
        The name, or the fragments as a list.

    Raises:
        ValueError: the value is neither.
    """
    if isinstance(factored, str) and factored in RULES:
        return factored
    is_list = isinstance(factored, (list, tuple)) and len(factored) > 0
    if is_list and all(isinstance(fragment, str) and fragment for fragment in factored):
        return list(factored)
    names = ", ".join(repr(name) for name in RULES)
    matches = difflib.get_close_matches(str(factored), RULES, n=1)
    hint = f"; did you mean {matches[0]!r}?" if matches else ""
    raise ValueError(
        f"factored must be one of {names} or a list of fragments of variable paths, such as "
        f"['experts/kernel'], got {factored!r}{hint}"
    )


def is_factored(path, shape, factored):
    """Whether a rule selects a variable.

    Args:
        path: the variable's path, such as `"moe/experts/kernel_0"`.
        shape: the variable's shape.
        factored: a name in `RULES`; or a list of path fragments, which selects every variable with
            one of them in its path.

    Raises:
        ValueError: the rule selects a variable with fewer than two axes.
    """
    if isinstance(factored, str):
        selected = RULES[factored](path, shape)
    else:
        selected = any(fragment in path for fragment in factored)
    if selected and len(shape) < 2:
        raise ValueError(
            f"only matrices and stacks of matrices can be factored, but {path} has shape "
            f"{tuple(shape)}; select variables of rank 2 or more, got factored={factored!r}"
        )
    return selected


def select_factored(variables, factored):
    """Applies a rule to the variables of an optimizer.

    Args:
        variables: list of `keras.Variable`.
        factored: as for `is_factored`.

    Returns:
        List of bool: whether each variable is factored.

    Raises:
        ValueError: as for `is_factored`; no path contains a fragment.
    """
    paths = [path_of(variable) for variable in variables]
    for fragment in [] if isinstance(factored, str) else factored:
        if not any(fragment in path for path in paths):
            matches = difflib.get_close_matches(fragment, paths, n=3, cutoff=0) or ["none"]
            raise ValueError(
                f"factored names {fragment!r}, which is in no variable's path; existing paths: "
                f"{', '.join(matches)}"
            )
    return [
        is_factored(path, variable.shape, factored)
        for path, variable in zip(paths, variables, strict=True)
    ]


def path_of(variable):
    """The path of a Keras variable, such as `moe/experts/kernel_0`, or the name of another one."""
    return getattr(variable, "path", None) or variable.name


def slot_shapes(shape):
    """The shapes `[..., I]` and `[..., O]` of the two slots of a variable `[..., I, O]`."""
    return tuple(shape[:-1]), (*shape[:-2], shape[-1])


def add_slots(optimizer, variable, initializer="zeros"):
    """Adds the two slots of a variable to a Keras optimizer, on the variable's devices.

    They are float32 if the variable has half precision, in which a moving average would not change.

    Args:
        optimizer: a `keras.optimizers.Optimizer`.
        variable: `keras.Variable` `[..., I, O]`.
        initializer: the initializer of the slots.

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
    """Computes one step: `slots ← accumulate(slots, means of gradient²)`, then
    `variable ← variable - rate · numerator / denominator(V)`.

    A large stack is updated in blocks of experts that fit in the cache, so that no tensor of the
    variable's size is created besides the gradient. An expert without a gradient is skipped, since
    its change is 0; its averages are updated.

    Args:
        optimizer: the `keras.optimizers.Optimizer` that owns the slots.
        variable: `tf.Variable` `[..., I, O]`, or its part on one device.
        gradient: tensor of the variable's shape, or `tf.IndexedSlices`, which are converted to one.
        slots: `rows` and `columns`, from `add_slots`.
        accumulate: `(average, mean of squares) → average`, for any shape.
        denominator: `(a, b) → [..., I, O]` for the estimate `V = a · b`, with a `[..., I, 1]` and b
            `[..., 1, O]`.
        rate: scalar tensor.
        momentum: the numerator, a tensor of the variable's shape; `None` for the gradient.
    """
    rows, columns = (tf.convert_to_tensor(slot) for slot in slots)
    gradient = tf.cast(tf.convert_to_tensor(gradient), rows.dtype)

    def new_averages(gradient, rows, columns):
        squares = tf.square(gradient)
        row_means, column_means = tf.reduce_mean(squares, -1), tf.reduce_mean(squares, -2)
        return accumulate(rows, row_means), accumulate(columns, column_means), row_means

    def change(numerator, rows, columns):
        a = tf.math.divide_no_nan(rows, tf.reduce_mean(rows, -1, keepdims=True))
        # In this order every operation after the first can overwrite its input.
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
            # Not "greater than 0": NaN must reach the weights.
            tf.cond(tf.reduce_any(tf.not_equal(row_means, 0)), update, lambda: False)
        else:
            update()
        return i + 1, new_rows.write(i, r), new_columns.write(i, c)

    _, new_rows, new_columns = tf.while_loop(
        lambda i, *_: i < num_blocks, body, [0, new_rows, new_columns], parallel_iterations=1
    )
    # After `scatter_sub` every read of the variable would make a copy.
    tf.raw_ops.DisableCopyOnRead(resource=variable.handle)
    optimizer.assign(slots[0], new_rows.concat())
    optimizer.assign(slots[1], new_columns.concat())


def block_length(variable):
    """The number of matrices in a block of a stack; `None` to update all at once."""
    if variable.shape.rank < 3:
        return None
    if compiles_for_xla():
        return None  # XLA does not support the loop, and fuses the operations
    block_bytes = BLOCK_BYTES["GPU" if "GPU" in variable.device else "CPU"]
    matrix_bytes = variable.shape[1:].num_elements() * variable.dtype.size
    block = max(1, block_bytes // max(1, matrix_bytes))
    return None if block >= variable.shape[0] else block
