"""KerasHub is optional, and only tested versions are changed."""

import sys
from importlib import metadata

import keras
import pytest

import tfmoe.keras_hub
from tfmoe.extras import MissingExtra
from tfmoe.keras_hub.version import release

MODEL = keras.Sequential([keras.Input([1])])


def test_without_keras_hub(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(MissingExtra, match=r'pip install "tfmoe\[keras-hub\]"'):
        tfmoe.keras_hub.sparsify(MODEL)


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0.0.dev0"])
def test_versions_that_are_not_tested(monkeypatch, version):
    pytest.importorskip("keras_hub", reason="keras-hub is not installed")
    monkeypatch.setattr(metadata, "version", lambda name: version)
    message = rf"keras-hub {version} is installed, .* from 0\.32 and below 0\.33: pip install"
    with pytest.raises(RuntimeError, match=message):
        tfmoe.keras_hub.sparsify(MODEL)


def test_release():
    assert release("0.32.0") == release("0.32.1.dev2") == (0, 32)
