# `make demo` and `make test` install everything first. PYTHON must be Python 3.11 to 3.13.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
# Extras that `make test-wheel` installs with the wheel, and the tests that it then runs.
EXTRAS := text,plots,dev
WHEEL_TESTS := tests/ops tests/layers tests/gating tests/config tests/data_pipelines tests/test_extras.py

.PHONY: install demo test test-all test-wheel wheel lint bench docs clean

install: .venv/installed

# Rebuilt when the requirements or the package metadata change, so later calls are fast and work offline.
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
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-all: install
	$(BIN)/python -m pytest

# Tests the wheel in an empty environment from another folder: first without, then with extras.
test-wheel: install
	$(BIN)/python .ci/test_wheel.py
	$(BIN)/python .ci/test_wheel.py --extras $(EXTRAS) $(WHEEL_TESTS)

wheel: install
	rm -rf dist
	$(BIN)/python -c "from setuptools import build_meta; build_meta.build_sdist('dist')"
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist dist/*.tar.gz

lint: install
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .
	$(BIN)/python -m mypy

bench: install
	$(BIN)/python benchmarks/moe_layer.py

docs: install
	TF_CPP_MIN_LOG_LEVEL=3 $(BIN)/python -m sphinx --fail-on-warning --quiet -c docs -d docs/_build/doctrees . docs/_build/html
	@echo "The site is in docs/_build/html/index.html"

clean:
	rm -rf .venv docs/_build .pytest_cache .ruff_cache .mypy_cache build dist *.egg-info
