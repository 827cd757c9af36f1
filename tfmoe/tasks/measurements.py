"""What is measured of each run of a sweep."""

import statistics
import time
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfmoe.config.schema import Config
from tfmoe.training.run_directory import RunDirectory

# A mixture's metrics of load balance, with their labels. The config section `paper` has the same
# keys.
BALANCE = {
    "cv_importance": "CV(Importance)",
    "cv_load": "CV(Load)",
    "max_over_mean_load": "max/mean load",
}
# The metrics of mixtures that are measured.
OF_MIXTURES = (*BALANCE, "selected_per_token", "dropped")
STEP_TIMES = ("seconds_per_step", "processor_seconds_per_step")


def measurements(config: Config, run: RunDirectory) -> dict[str, Any]:
    """The measurements of a finished run: a row of `ablation.csv` or `comparison.csv`.

    `train_` columns are means over the training batches of the last epoch, as in Table 6; `test_`
    columns are means over the batches of the test text. For a model with several mixtures they are
    averaged over the mixtures; for a model without one they are empty (`None`). The times of a step
    are those that `StepTimes` measured; `None` without it.

    Args:
        config: the `Config` of the run.
        run: its folder.
    """
    result = run.read_json(run.result)
    epochs = run.read_history()
    last = epochs[-1] if epochs else {}
    return {
        "seed": config.training.seed,
        "num_experts": max(getattr(block, "num_experts", 0) for block in config.model.blocks),
        "ops_per_timestep": result["ops_per_timestep"],
        "parameters": result["parameters"]["total"],
        "perplexity": result["perplexity"],
        **{f"train_{name}": mean_of_mixtures(last, name) for name in OF_MIXTURES},
        **{f"test_{name}": mean_of_mixtures(result, name) for name in OF_MIXTURES},
        "words_trained": result["words_trained"],
        "seconds": result["seconds"],
        **StepTimes.read(run),
    }


def mean_of_mixtures(logs: Mapping[str, float], metric: str) -> float | None:
    """The mean of a metric over the mixtures of a model, without validation metrics; `None` if the
    model has no mixture.

    Args:
        logs: metrics by name, among them `{"moe_1_cv_load": value, …}`.
        metric: such as `"cv_load"`.
    """
    return mean(
        value
        for name, value in logs.items()
        if name.endswith(f"_{metric}") and not name.startswith("val_")
    )


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are not `None`; `None` if there are none."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def figure(value: float | None, decimals: int = 2) -> str:
    """Formats a figure of a table, `-` for `None`."""
    return "-" if value is None else f"{value:.{decimals}f}"


class StepTimes(keras.callbacks.Callback):
    """Measures the mean time of a training step in the last epoch, without the first step, which
    traces the model, and without validation.

    It writes `step_times.json` in the folder of the run: `seconds_per_step` by the clock, and
    `processor_seconds_per_step` of all threads of the process, which other processes on the machine
    affect less.

    Args:
        run: the run's folder.
    """

    FILE = "step_times.json"

    def __init__(self, run: RunDirectory):
        super().__init__()
        self.run = run
        self._first = self._last = (0, 0.0, 0.0)

    def on_epoch_begin(self, epoch, logs=None):
        self._first = None

    def on_train_batch_end(self, batch, logs=None):
        self._last = (batch, time.perf_counter(), time.process_time())
        self._first = self._first or self._last

    def on_epoch_end(self, epoch, logs=None):
        steps, *seconds = (b - a for a, b in zip(self._first, self._last, strict=True))
        if steps:
            times = dict(zip(STEP_TIMES, (value / steps for value in seconds), strict=True))
            self.run.write_json(self.run.path / self.FILE, times)

    @classmethod
    def read(cls, run: RunDirectory) -> dict[str, float | None]:
        """Reads the times of a run; `None` for those that were not measured.

        Args:
            run: the run's folder.
        """
        file = run.path / cls.FILE
        times = run.read_json(file) if file.exists() else {}
        return {name: times.get(name) for name in STEP_TIMES}
