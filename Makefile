# `make demo` and `make test` set everything up by themselves. PYTHON must be a Python 3.11.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin

.PHONY: install demo test test-all lint bench clean

install: .venv/installed

# Rebuilt when the requirements or the package metadata change, so that a second call costs nothing and works offline.
.venv/installed: requirements.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "setuptools>=77" -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

demo: install
	$(BIN)/tfmoe demo --run-dir runs/demo

test: install
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

bench: install
	$(BIN)/python benchmarks/moe_layer.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache build dist *.egg-info
