# `make quickstart` and `make test` do all of their own set-up, in .venv, on a machine with Python and a network.

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3

.NOTPARALLEL:
.PHONY: help quickstart test test-oldest test-newest benchmark docs notebooks lint format types wheel clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 20
	@echo 'Arguments: make quickstart ARGS="--dataset fashion_mnist"; make test ARGS="-k losses". Python: make test PYTHON=python3.12'

quickstart: .venv/.installed-examples  ## distil a teacher into a student, and print what was gained
	$(BIN)/python examples/quickstart.py $(ARGS)

test: .venv/.installed-test  ## run the tests
	$(BIN)/python -m pytest -n 2 --dist worksteal $(ARGS)

test-oldest: .venv-oldest/.installed  ## run them with the oldest TensorFlow and Keras that are supported
	.venv-oldest/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

test-newest: .venv-newest/.installed  ## run them with pre-releases of TensorFlow and Keras
	.venv-newest/bin/python -m pytest -n 2 --dist worksteal $(ARGS)

benchmark: .venv/.installed-examples  ## run the benchmarks, and list the aims that they meet; half a day, ARGS="--only growth" some of it
	$(BIN)/python examples/benchmarks/run_all.py $(ARGS)

docs: .venv/.installed-docs  ## run the notebooks and build the site in docs/_build/html; ARGS=--smoke in minutes
	$(BIN)/python docs/build.py $(ARGS)

notebooks: .venv/.installed-docs  ## run the notebooks that have changed; ARGS="--smoke 01_quickstart" one, in a minute
	$(BIN)/python docs/run_notebooks.py $(ARGS)

lint: .venv/.installed-dev  ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: .venv/.installed-dev  ## mend what can be mended of both
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: .venv/.installed-dev  ## check types
	$(BIN)/mypy

wheel: .venv/.installed-dev  ## build a wheel in dist
	rm -rf build dist
	$(BIN)/python -m build --quiet --wheel

clean:  ## remove .venv and what was built, but not runs
	rm -rf .venv .venv-oldest .venv-newest build dist docs/_build *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One stamp for each extra: it is installed again only when what it depends on has changed.
.venv/.installed-%: setup.cfg pyproject.toml | $(BIN)/python
	@echo 'Installing keras_kd[$*] into .venv (at first a few minutes: TensorFlow is large)'
	$(BIN)/python -m pip install --disable-pip-version-check --editable '.[$*]'
	@touch $@

.venv-oldest/.installed: setup.cfg pyproject.toml tests/oldest.txt
	$(PYTHON) -m venv .venv-oldest
	.venv-oldest/bin/python -m pip install --disable-pip-version-check --constraint tests/oldest.txt --editable '.[test]'
	@touch $@

# The packages keras and keras-nightly hold the same files, and others ask for either: both go before one comes.
.venv-newest/.installed: setup.cfg pyproject.toml tests/newest.txt
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/python -m pip install --disable-pip-version-check --constraint tests/newest.txt --editable '.[test-newest]'
	.venv-newest/bin/python -m pip uninstall --disable-pip-version-check --yes keras keras-nightly
	.venv-newest/bin/python -m pip install --disable-pip-version-check --no-deps --requirement tests/newest.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo 'keras_kd needs Python 3.11 or newer, and "$(PYTHON)" is not. Name one that is: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; \
	  exit 1; }
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo '"$(PYTHON) -m venv" failed. On Debian and Ubuntu: apt install python3-venv. Or name another Python: make $(MAKECMDGOALS) PYTHON=python3.12' >&2; \
	  exit 1; }
