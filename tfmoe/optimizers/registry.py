"""The optimizers that a config can name: this package's, and all of Keras."""

import inspect

import keras

from tfmoe.optimizers.factored_adagrad import FactoredAdagrad
from tfmoe.optimizers.factored_adam import FactoredAdam


def keras_optimizers():
    """The optimizers that Keras exports, by the names that `model.compile` takes: class names in
    lower case, such as `"adamw"`.

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
