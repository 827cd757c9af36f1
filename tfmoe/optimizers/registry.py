"""The optimizers that a config can name: this package's, and all of Keras."""

import inspect

import keras

from tfmoe.optimizers.factored_adagrad import FactoredAdagrad
from tfmoe.optimizers.factored_adam import FactoredAdam


def keras_optimizers():
    """The optimizers that Keras exports, by their class names in lower case, as `model.compile`
    takes them: `"adamw"`.

    Those that wrap other optimizers have no learning rate, and are left out.

    Returns:
        `{name: class}`, sorted by name.
    """
    found = {
        name.lower(): cls
        for name, cls in vars(keras.optimizers).items()
        if inspect.isclass(cls) and issubclass(cls, keras.optimizers.Optimizer)
    }
    return {
        name: found[name]
        for name in sorted(found)
        if "learning_rate" in inspect.signature(found[name]).parameters
    }


OPTIMIZERS = {
    "adam": keras.optimizers.Adam,
    "factored_adam": FactoredAdam,
    "factored_adagrad": FactoredAdagrad,
    **keras_optimizers(),
}

# Optimizers whose step needs the whole of a variable. A device of a `MixedStrategy` has a part of
# the experts' variables.
NEED_WHOLE_VARIABLES = {
    "adafactor": "it keeps averages over the axes of a variable",
    "lamb": "the norm of a whole variable scales its step",
    "muon": "its weight decay assigns whole variables",
}
