"""The optimizers that a config can name: those of this package and of Keras."""

import inspect

import keras

from tfmoe.optimizers.factored_adagrad import FactoredAdagrad
from tfmoe.optimizers.factored_adam import FactoredAdam
from tfmoe.optimizers.fused_adam import FusedAdam


def keras_optimizers():
    """Lists the optimizers that Keras exports, by the lower-case class names that `model.compile`
    accepts: `"adamw"`.

    Optimizers that wrap other optimizers have no learning rate, and are not included.

    Returns:
        `{name: class}`, sorted by name.
    """
    classes = {
        name.lower(): cls
        for name, cls in vars(keras.optimizers).items()
        if inspect.isclass(cls) and issubclass(cls, keras.optimizers.Optimizer)
    }
    return {
        name: classes[name]
        for name in sorted(classes)
        if "learning_rate" in inspect.signature(classes[name]).parameters
    }


OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "factored_adam": FactoredAdam,
    "factored_adagrad": FactoredAdagrad,
    "fused_adam": FusedAdam,
    **keras_optimizers(),
}

# Optimizers whose step needs whole variables. A device of a `MixedStrategy` has only a part of the
# variables of experts.
NEED_WHOLE_VARIABLES = {
    "adafactor": "it keeps averages over the axes of a variable",
    "lamb": "it scales the step by the norm of a whole variable",
    "muon": "its weight decay assigns whole variables",
}
