"""A callback that diagnoses the mixtures of any Keras model during training."""

import warnings

import keras
import tensorflow as tf

from tfmoe.inspection.doctor.examination import Settings, check_training, findings_of
from tfmoe.inspection.doctor.finding import NOTE, Setting
from tfmoe.inspection.doctor.mixture import mixture_of
from tfmoe.inspection.routing import BatchRouter
from tfmoe.inspection.use import use_of_experts
from tfmoe.layers.expert_metrics import mode_of
from tfmoe.layers.mixture_layer import mixtures_of


class ExpertHealth(keras.callbacks.Callback):
    """Warns during `fit` of problems with the mixtures of a model, and with its loss: dead experts,
    collapse, balancing losses that are too strong or off, divergence, overfitting.

    At the end of each epoch the logs are compared with the limits of `tfmoe doctor`. Each
    finding is a Python warning (`UserWarning`), once per kind and mixture, with the figure, the
    likely cause, and the argument to change: `moe.gate.load_weight=0.1` is the argument
    `load_weight` of the gate of the layer `moe`.

    Args:
        batches: a few batches of training inputs, as `fit` takes them. With them the gate
            values (`saturated_gate`) and the number of tokens per expert (`small_expert_batch`)
            are checked too. One device only.

    Attributes:
        findings: list of `tfmoe.inspection.doctor.Finding`, those of the last epoch, the worst
            first. Includes those of severity "note", for which there is no warning.
        checks: list of `tfmoe.inspection.doctor.Check`, all figures of the last epoch.

    Raises:
        ValueError: at the beginning of `fit`, if the model has no mixture with `metrics="all"`.

    Example:
        >>> moe = MoE(num_experts=4, hidden_units=8, gate=NoisyTopK(k=2), metrics="all", name="moe")
        >>> model = keras.Sequential([keras.Input([3]), moe])
        >>> model.compile("adam", "mse")
        >>> health = ExpertHealth()
        >>> history = model.fit(np.ones([8, 3]), np.ones([8, 3]), verbose=0, callbacks=[health])
        >>> [figure.name for figure, finding in health.checks]
        ['loss', 'moe_cv_load', 'moe: balancing loss / loss']
    """

    def __init__(self, batches=()):
        super().__init__()
        self.batches = list(batches)
        self.findings, self.checks = [], []

    def on_train_begin(self, logs=None):
        layers = mixtures_of(self.model)
        if not any(mode_of(layer.expert_metrics) == "all" for layer in layers.values()):
            raise ValueError(
                f"{self.model.name} has no mixture that measures the use of its experts: add a "
                "tfmoe.layers.MoE with metrics='all'"
            )
        self._rows, self._warned, self._router, self._tokens = [], set(), None, {}

    def on_epoch_end(self, epoch, logs=None):
        self._rows.append({name: float(value) for name, value in (logs or {}).items()})
        sample = self._route()
        mixtures = [
            mixture_of(name, layer, f"{name}.", self._tokens.get(name))
            for name, layer in mixtures_of(self.model).items()
        ]
        self.checks = check_training(mixtures, self._rows, sample, settings=self._settings())
        self.findings = findings_of(self.checks)
        for finding in self.findings:
            key = finding.kind, finding.where
            if finding.severity != NOTE and key not in self._warned:
                self._warned.add(key)
                warnings.warn(f"epoch {epoch + 1}: {finding}", stacklevel=2)

    def _settings(self):
        rate = float(tf.convert_to_tensor(self.model.optimizer.learning_rate))
        return Settings(
            learning_rate=Setting("optimizer.learning_rate", rate),
            epochs=Setting("fit.epochs", self.params.get("epochs")),
        )

    def _route(self):
        """`{name: figure}` of the sample, see `check_training`. Counts the tokens of a batch."""
        if not self.batches:
            return {}
        if self._router is None:
            self._router = BatchRouter(self.model)
        figures = {}
        for name, routed in self._router(self.batches).items():
            self._tokens[name] = len(routed.tokens) / len(self.batches)
            figures[f"{name}/gate_entropy"] = use_of_experts(routed).gate_entropy
        return figures
