"""A minimal config for tests to modify, and the error messages of a config."""

import pytest

from tfmoe.config import ConfigError, load_config

MINIMAL = """\
model:
  d_model: 8
  blocks:
    - {name: lstm, units: 8}
    - name: moe
      num_experts: 4
      hidden_units: 16
      gate: {name: noisy_top_k, k: 2}
data: {name: text, train: "train-*.txt"}
"""


def problems(path, *overrides):
    """The lines of the error of loading a config, with paths relative to the config."""
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").split("\n")
