"""Everything that decides how training goes on, saved and restored as one.

A state is saved by TensorFlow's checkpoint writer: under a temporary name, then renamed, and only
then does the `checkpoint` file point to it. A process killed at any moment leaves the state before
it whole.
"""

import pathlib

import tensorflow as tf


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
        model.optimizer.build(model.trainable_variables)
        self.epoch = tf.Variable(0, dtype=tf.int64, trainable=False)
        self.best = tf.Variable(float("inf"), dtype=tf.float64, trainable=False)
        self.seconds = tf.Variable(0, dtype=tf.float64, trainable=False)
        self._metrics = [variable.value for variable in model.metrics_variables]
        self._metrics_to_restore = None
        weights = weight_table(model)
        own = {id(variable.value) for variable in model.weights}
        random_states = [v.value for v in model.variables if id(v.value) not in own]
        everything = tf.train.Checkpoint(
            weights=Table(weights),
            random_states=random_states,
            optimizer=[variable.value for variable in model.optimizer.variables],
            epoch=self.epoch,
            best=self.best,
            seconds=self.seconds,
            metrics=self._metrics,
        )
        self._last = tf.train.CheckpointManager(
            everything, str(self.directory), max_to_keep=1, checkpoint_name="last"
        )
        self._best = best_manager(model, self.directory)

    @property
    def step(self):
        """Finished training steps."""
        return int(self.model.optimizer.iterations)

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

    def _write(self, manager):
        for weight in self.model.trainable_variables:
            if not tf.reduce_all(tf.math.is_finite(weight.value)):
                raise FloatingPointError(f"the weight {weight.path} is not finite any more")
        try:
            manager.save(checkpoint_number=self.step)
        except tf.errors.OpError as error:
            raise OSError(f"{manager.directory}: no checkpoint written: {error.message}") from error

    def restore(self):
        """Restores the last saved state.

        Returns:
            Whether there was one.

        Raises:
            ValueError: if it is of another model or optimizer.
        """
        path = self._last.latest_checkpoint
        if path is None:
            return False
        read(self._last.checkpoint, path)
        self._metrics_to_restore = [variable.numpy() for variable in self._metrics]
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
    directory = pathlib.Path(directory)
    if which == "best":
        manager = best_manager(model, directory)
    else:
        manager = tf.train.CheckpointManager(
            tf.train.Checkpoint(weights=Table(weight_table(model))),
            str(directory),
            max_to_keep=1,
            checkpoint_name=which,
        )
    if manager.latest_checkpoint is None:
        raise FileNotFoundError(
            f"{directory} has no {which!r} weights yet: was the run killed before its first epoch "
            "ended?"
        )
    read(manager.checkpoint, manager.latest_checkpoint)


class Table(tf.train.Checkpoint):
    """Variables by name, for names that are no Python identifiers."""

    def __init__(self, variables):
        super().__init__(**variables)
        self.variables = variables


def best_manager(model, directory):
    """The checkpoint manager of the best weights, in a folder of its own."""
    return tf.train.CheckpointManager(
        tf.train.Checkpoint(weights=Table(weight_table(model))),
        str(pathlib.Path(directory) / "best"),
        max_to_keep=1,
        checkpoint_name="best",
    )


def weight_table(model):
    """`{place and name: tf.Variable}` of all weights, such as `004_gate_kernel`.

    Keras' paths do not serve: they depend on what else was built in the process.
    """
    return {f"{i:03}_{weight.name}": weight.value for i, weight in enumerate(model.weights)}


def read(checkpoint, path):
    """Restores a checkpoint; a ValueError names what does not fit."""
    try:
        _read(checkpoint, path)
    except (tf.errors.OpError, IndexError) as error:  # TensorFlow raises both
        raise ValueError(f"{path} is damaged: {error}") from error


def _read(checkpoint, path):
    saved = tf.train.load_checkpoint(path).get_variable_to_shape_map()
    expected = checkpoint.weights.variables
    for name, variable in expected.items():
        shape = saved.get(f"weights/{name}/.ATTRIBUTES/VARIABLE_VALUE")
        if shape != variable.shape.as_list():
            found = "no such weight" if shape is None else f"shape {tuple(shape)}"
            raise ValueError(
                f"{path} is not of this model: {name} has shape {tuple(variable.shape)} in the "
                f"model and {found} in the checkpoint"
            )
    number = sum(name.startswith("weights/") for name in saved)
    if number != len(expected):
        raise ValueError(
            f"{path} is not of this model: it has {number} weights, the model {len(expected)}"
        )
    try:
        status = checkpoint.restore(path)
        status.assert_existing_objects_matched()
        status.expect_partial()
    except (AssertionError, ValueError) as error:
        raise ValueError(f"{path} is not of this model and optimizer: {error}") from error
