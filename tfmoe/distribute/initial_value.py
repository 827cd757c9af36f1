"""The initial value of a variable, drawn whole or in parts."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import keras
import tensorflow as tf

# The rows of their values do not depend on the number of rows.
CONSTANT = (keras.initializers.Ones, keras.initializers.Zeros)


class InitialValue(NamedTuple):
    """The initial value of a variable of Keras. A call draws it whole.

    Attributes:
        initializer: a Keras initializer, or a function of shape and dtype. It can have a method
            `draw_rows(shape, bounds, dtype)` that draws the rows of some devices only, as
            `tfmoe.layers.initializers.PerExpert`.
        shape: the shape of the whole variable.
        dtype: name of the dtype.
    """

    initializer: Callable
    shape: tuple
    dtype: str

    def __call__(self) -> tf.Tensor:
        return self.initializer(self.shape, dtype=self.dtype)

    def rows(self, bounds: Sequence[tuple[int, int]]) -> Iterator[tf.Tensor]:
        """Draws the rows of some devices. Values of an initializer that cannot draw a part are
        drawn whole, and cut.

        Args:
            bounds: `(begin, end)` on the first axis, for each device.

        Yields:
            `[end - begin, ...]` for each device.
        """
        if hasattr(self.initializer, "draw_rows"):
            yield from self.initializer.draw_rows(self.shape, bounds, self.dtype)
        elif isinstance(self.initializer, CONSTANT):
            for begin, end in bounds:
                yield self.initializer((end - begin, *self.shape[1:]), dtype=self.dtype)
        else:
            whole = tf.convert_to_tensor(self())
            for begin, end in bounds:
                yield whole[begin:end]
