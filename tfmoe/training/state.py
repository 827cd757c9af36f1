"""The training state: all that is needed to resume training, saved and restored together.

A process that is killed at any moment leaves the last saved state intact. A state saved on one
number of devices can be resumed on another (`tfmoe.distribute.checkpoint`).
"""

import os
import pathlib

import keras
import tensorflow as tf

from tfmoe.distribute import sum_over_workers
from tfmoe.distribute.checkpoint import Checkpoint, shapes_in
from tfmoe.layers.expert_metrics import expert_metrics_of


class TrainingState:
    """The variables of a model and its optimizer, and the progress of training.

    The state contains the weights, the states of the random generators (noise, dropout, samples of
    the softmax), the optimizer's variables with its step count, the number of finished epochs and
    the best validation perplexity. It also contains the metrics and seconds of an unfinished epoch,
    so the logs of a resumed epoch equal those of an uninterrupted one. Weights are identified by
    position, name and shape: restoring a state of another architecture is an error.

    Args:
        model: a built and compiled Keras model.
        directory: folder of the checkpoints `last-N` and `best-N`.

    Attributes:
        epoch: variable, number of finished epochs.
        best: variable, lowest validation perplexity so far.
        seconds: variable, training time of the unfinished epoch.
    """

    def __init__(self, model: keras.Model, directory: str | os.PathLike):
        self.model = model
        self.directory = pathlib.Path(directory)
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False)
        self.seconds = tf.Variable(0, dtype=tf.float64, trainable=False)
        self._metrics = [variable.value for variable in model.metrics_variables]
        self._metrics_to_restore: list | None = None
        strategy = model.distribute_strategy
        weights = named_weights(model)
        weight_ids = {id(variable.value) for variable in model.weights}
        random_states = [v for v in model.variables if id(v.value) not in weight_ids]
        variables = {
            **weights,
            **numbered("random_states", random_states),
            **numbered("optimizer", model.optimizer.variables),
            **numbered("metrics", model.metrics_variables),
            "epoch": self.epoch,
            "best": self.best,
            "seconds": self.seconds,
        }
        self._last = Checkpoint(variables, self.directory, "last", strategy)
        of_experts = {id(v.value) for m in expert_metrics_of(model) for v in m.variables}
        others = {name: value for name, value in variables.items() if id(value) not in of_experts}
        self._last_without_expert_metrics = Checkpoint(others, self.directory, "last", strategy)
        self._best = Checkpoint(weights, self.directory / "best", "best", strategy)

    @property
    def step(self) -> int:
        """The number of finished training steps."""
        return int(self.model.optimizer.iterations.numpy())

    def save(self):
        """Saves the state, to resume from.

        Raises:
            FloatingPointError: if a weight is not finite. Nothing is saved then.
            OSError: if a file cannot be written.
        """
        self._write(self._last)

    def save_best(self):
        """Saves the weights alone, as the best so far.

        Raises:
            FloatingPointError: if a weight is not finite. Nothing is saved then.
            OSError: if a file cannot be written.
        """
        self._write(self._best)

    def _write(self, checkpoint):
        invalid = [w.path for w in self.model.trainable_variables if not is_finite(w.value)]
        num_remote = sum_over_workers(self.model.distribute_strategy, len(invalid)) - len(invalid)
        if invalid or num_remote:
            weight = invalid[0] if invalid else "of an expert on another worker"
            raise FloatingPointError(f"the weight {weight} is not finite")
        checkpoint.save(self.step)

    def restore(self) -> bool:
        """Restores the last saved state, and removes unfinished files of killed processes.

        A state that another version saved may have other metrics of mixtures. These are not
        restored then: in an unfinished epoch they are means over the remaining steps.

        Returns:
            Whether a state was restored: `False` if none was saved.

        Raises:
            ValueError: if the state belongs to another model or optimizer.
        """
        path = self._last.latest()
        if path is None:
            return False
        has_all = num_metrics(shapes_in(path)) == num_metrics(self._last.variables)
        read(self._last if has_all else self._last_without_expert_metrics, path)
        for checkpoint in (self._last, self._best):
            checkpoint.remove_leftovers()
        self._metrics_to_restore = [tf.convert_to_tensor(v).numpy() for v in self._metrics]
        return True

    def restore_metrics(self):
        """Sets the metrics to those of the restored state, at the first call after `restore`.

        `fit` resets the metrics at the start of an epoch.
        """
        for variable, value in zip(self._metrics, self._metrics_to_restore or (), strict=False):
            variable.assign(value)
        self._metrics_to_restore = None


def load_weights(model: keras.Model, directory: str | os.PathLike, which: str = "best"):
    """Loads the weights that training saved into a built model.

    Args:
        model: a built Keras model of the same architecture.
        directory: the run's `checkpoints`.
        which: `"best"` for the weights with the lowest validation perplexity, or `"last"`.

    Raises:
        FileNotFoundError: if no weights were saved.
        ValueError: if the weights belong to another model.
    """
    directory = checkpoint_folder(directory, which)
    checkpoint = Checkpoint(named_weights(model), directory, which, model.distribute_strategy)
    path = checkpoint.latest()
    if path is None:
        raise FileNotFoundError(
            f"{directory} has no {which!r} weights yet: was the run killed before its first epoch "
            "ended?"
        )
    read(checkpoint, path)


def save_weights(model: keras.Model, directory: str | os.PathLike, step: int):
    """Saves the weights of a built model as the best ones of a run.

    Args:
        model: a built Keras model.
        directory: the run's `checkpoints`.
        step: the training step of the weights, for the name of the checkpoint.

    Raises:
        OSError: if a file cannot be written.
    """
    folder = checkpoint_folder(directory, "best")
    Checkpoint(named_weights(model), folder, "best", model.distribute_strategy).save(step)


def saved_step(directory: str | os.PathLike, which: str = "best") -> int | None:
    """The training step at which weights were saved; `None` if none were.

    Args:
        directory: the run's `checkpoints`.
        which: `"best"` or `"last"`, as in `load_weights`.
    """
    path = Checkpoint({}, checkpoint_folder(directory, which), which).latest()
    return None if path is None else int(path.rpartition("-")[2])


def checkpoint_folder(directory, kind):
    """The folder of the `kind` checkpoint in a run's `checkpoints`."""
    return pathlib.Path(directory) / ("best" if kind == "best" else "")


def is_finite(variable):
    """Whether all values of a variable are finite; of a sharded variable, all local values."""
    parts = variable.local_parts() if hasattr(variable, "local_parts") else [variable]
    return all(bool(tf.reduce_all(tf.math.is_finite(part))) for part in parts)


def numbered(group, variables):
    """`{name: tf.Variable}` of Keras variables, with names such as `weights/004_kernel`.

    A name consists of group, position and variable name. Keras' paths are unsuitable, since they
    depend on the layers that were built before in the process. The names of optimizer slots begin
    with such a path, so only their last word is used.
    """
    names = [v.name.rpartition("_")[2] if group == "optimizer" else v.name for v in variables]
    return {f"{group}/{i:03}_{names[i]}": v.value for i, v in enumerate(variables)}


def named_weights(model):
    """`{name: tf.Variable}` of all weights of a model."""
    return numbered("weights", model.weights)


def read(checkpoint, path):
    """Restores a checkpoint.

    Raises:
        ValueError: if a variable is missing or has another shape; the message names it.
    """
    saved_shapes = shapes_in(path)
    for name, variable in checkpoint.variables.items():
        if saved_shapes.get(name) != variable.shape.as_list():
            saved = f"shape {tuple(saved_shapes[name])}" if name in saved_shapes else "is missing"
            raise ValueError(
                f"{path} belongs to another model{'' if is_weight(name) else ' or optimizer'}: "
                f"{name} has shape {tuple(variable.shape)} in the model and {saved} in the "
                "checkpoint"
            )
    num_saved, expected = (
        sum(map(is_weight, names)) for names in (saved_shapes, checkpoint.variables)
    )
    if num_saved != expected:
        raise ValueError(
            f"{path} belongs to another model: it has {num_saved} weights, the model {expected}"
        )
    checkpoint.restore(path)


def is_weight(name):
    """Whether a variable in a checkpoint is a weight of the model."""
    return name.startswith("weights/")


def num_metrics(names):
    """The number of variables of metrics among the names of a checkpoint."""
    return sum(name.startswith("metrics/") for name in names)
