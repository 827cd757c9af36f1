"""Everything that decides how training goes on, saved and restored as one.

A process killed at any moment leaves the last saved state whole; what is saved on any number of
devices goes on with any other (`tfmoe.distribute.checkpoint`).
"""

import pathlib

import tensorflow as tf

from tfmoe.distribute import sum_over_workers
from tfmoe.distribute.checkpoint import Checkpoint, shapes_in


class TrainingState:
    """The variables of a model and its optimizer, and how far training is.

    Holds the weights, the states of the random generators (noise, dropout, draws of the sampled
    softmax), the optimizer's variables with its step count, the number of finished epochs and the
    best validation perplexity; of an unfinished epoch also its metrics and its seconds, so that the
    epoch's logs are those of an uninterrupted run. Weights are saved by place, name and shape, so
    that a state of another architecture is refused.

    Args:
        model: a built and compiled Keras model.
        directory: for the checkpoints `last-N` and `best-N`.

    Attributes:
        epoch: variable, number of finished epochs.
        best: variable, lowest validation perplexity so far.
        seconds: variable, training time of the unfinished epoch.
    """

    def __init__(self, model, directory):
        self.model = model
        self.directory = pathlib.Path(directory)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False)
        self.seconds = tf.Variable(0, dtype=tf.float64, trainable=False)
        self._metrics = [variable.value for variable in model.metrics_variables]
        self._metrics_to_restore = None
        strategy = model.distribute_strategy
        weights = weight_table(model)
        own = {id(variable.value) for variable in model.weights}
        random_states = [v for v in model.variables if id(v.value) not in own]
        everything = {
            **weights,
            **numbered("random_states", random_states),
            **numbered("optimizer", model.optimizer.variables),
            **numbered("metrics", model.metrics_variables),
            "epoch": self.epoch,
            "best": self.best,
            "seconds": self.seconds,
        }
        self._last = Checkpoint(everything, self.directory, "last", strategy)
        self._best = Checkpoint(weights, self.directory / "best", "best", strategy)

    @property
    def step(self):
        """Finished training steps."""
        return int(self.model.optimizer.iterations.numpy())

    def save(self):
        """Saves the state as the one to resume from.

        Raises:
            FloatingPointError: if a weight is not finite. Nothing is saved then.
            OSError: if it cannot be written.
        """
        self._write(self._last)

    def save_best(self):
        """Saves the weights alone, as the best so far. Raises as `save`."""
        self._write(self._best)

    def _write(self, checkpoint):
        broken = [w.path for w in self.model.trainable_variables if not is_finite(w.value)]
        elsewhere = sum_over_workers(self.model.distribute_strategy, len(broken)) - len(broken)
        if broken or elsewhere:
            which = broken[0] if broken else "of an expert on another worker"
            raise FloatingPointError(f"the weight {which} is not finite any more")
        checkpoint.save(self.step)

    def restore(self):
        """Restores the last saved state, and removes what killed processes left beside it.

        Returns:
            Whether there was one.

        Raises:
            ValueError: if it is of another model or optimizer.
        """
        path = self._last.latest()
        if path is None:
            return False
        read(self._last, path)
        for checkpoint in (self._last, self._best):
            checkpoint.remove_leftovers()
        self._metrics_to_restore = [tf.convert_to_tensor(each).numpy() for each in self._metrics]
        return True

    def restore_metrics(self):
        """Puts back the metrics of a restored state, once: for `fit` resets them where an epoch
        begins.
        """
        for variable, value in zip(self._metrics, self._metrics_to_restore or (), strict=False):
            variable.assign(value)
        self._metrics_to_restore = None


def load_weights(model, directory, which="best"):
    """Loads the weights that training saved into a built model.

    Args:
        model: a built Keras model of the same architecture.
        directory: the run's `checkpoints`.
        which: `"best"` by validation perplexity, or `"last"`.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: if they are of another model.
    """
    directory = folder_of(directory, which)
    checkpoint = Checkpoint(weight_table(model), directory, which, model.distribute_strategy)
    path = checkpoint.latest()
    if path is None:
        raise FileNotFoundError(
            f"{directory} has no {which!r} weights yet: was the run killed before its first epoch "
            "ended?"
        )
    read(checkpoint, path)


def saved_step(directory, which="best"):
    """After which training step weights were saved; `None` if there are none.

    Args:
        directory, which: as for `load_weights`.
    """
    path = Checkpoint({}, folder_of(directory, which), which).latest()
    return None if path is None else int(path.rpartition("-")[2])


def folder_of(directory, which):
    """Where in a run's `checkpoints` the weights are."""
    return pathlib.Path(directory) / ("best" if which == "best" else "")


def is_finite(variable):
    """Whether all numbers of a variable, of a sharded one all here, are finite."""
    parts = variable.local_parts() if hasattr(variable, "local_parts") else [variable]
    return all(bool(tf.reduce_all(tf.math.is_finite(part))) for part in parts)


def numbered(group, variables):
    """`{name: tf.Variable}` of Keras variables: group, place and name, such as
    `weights/004_kernel`.

    Keras' paths do not serve, which depend on what else was built in the process; nor do the names
    of optimizer slots but for their last word, as they begin with such a path.
    """
    names = [v.name.rpartition("_")[2] if group == "optimizer" else v.name for v in variables]
    return {f"{group}/{i:03}_{names[i]}": each.value for i, each in enumerate(variables)}


def weight_table(model):
    """`{name: tf.Variable}` of all weights of a model."""
    return numbered("weights", model.weights)


def read(checkpoint, path):
    """Restores a checkpoint; a ValueError names what does not fit."""
    saved = shapes_in(path)
    for name, variable in checkpoint.variables.items():
        if saved.get(name) != variable.shape.as_list():
            found = f"shape {tuple(saved[name])}" if name in saved else "no such variable"
            raise ValueError(
                f"{path} is not of this model{'' if is_weight(name) else ' and optimizer'}: {name} "
                f"has shape {tuple(variable.shape)} in the model and {found} in the checkpoint"
            )
    number, expected = (sum(map(is_weight, names)) for names in (saved, checkpoint.variables))
    if number != expected:
        raise ValueError(
            f"{path} is not of this model: it has {number} weights, the model {expected}"
        )
    checkpoint.restore(path)


def is_weight(name):
    """Whether a name in a checkpoint is that of a weight of the model."""
    return name.startswith("weights/")
