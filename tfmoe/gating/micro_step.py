"""The part of an optimizer step that a batch is, where gradients are accumulated."""

from typing import NamedTuple

import tensorflow as tf


class MicroStep(NamedTuple):
    """The position of a batch in its optimizer step.

    Attributes:
        is_first: whether the step begins with this batch: `True`, or a bool scalar tensor if the
            optimizer accumulates the gradients of several batches.
        is_last: the same for the end of the step.
    """

    is_first: bool | tf.Tensor = True
    is_last: bool | tf.Tensor = True


WHOLE_STEP = MicroStep()
