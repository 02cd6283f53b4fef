# The commands of this project. A fresh machine needs Python 3.11 or later with venv, and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo
# one thread a task: the engine runs tasks side by side, and the bits of a product depend on its thread count
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1

.PHONY: demo test lint bench docs clean help

help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/'

$(VENV)/.core: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("cryoflow needs Python 3.11 or later; give PYTHON=...") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -e .
	touch $@

$(VENV)/.dev: pyproject.toml $(VENV)/.core
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[dev]'
	touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/.core
	$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[docs]'
	touch $@

demo: $(VENV)/.core  ## simulated micrographs with known truth -> map and report in demo/
	$(BIN)/cryoflow run demo -o $(OUT)

test: lint  ## ruff, mypy and the default tests
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

lint: $(VENV)/.dev  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(VENV)/.dev  ## measure the figures of the README
	$(BIN)/python -m benchmarks

docs: $(VENV)/.docs  ## the documentation as HTML in site/
	$(BIN)/python -m sphinx -q -W --keep-going -b html docs site

clean:  ## remove the environment and what was built
	rm -rf $(VENV) site build *.egg-info
