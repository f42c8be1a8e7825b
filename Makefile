PYTHON ?= $(shell for p in python3.11 python3 python; do \
	command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
CONSTRAINTS ?= constraints.txt
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= auto

.DEFAULT_GOAL := help
.PHONY: help install compare test test-quick lint format readme docs

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	@test -n "$(PYTHON)" || { echo "optkit needs Python 3.11 or newer; give it as make PYTHON=/path/to/python"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) hatchling editables
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) --no-build-isolation -e '.[test]'
	@touch $@

install: $(VENV)/installed  ## prepare .venv: pinned dependencies and this package

compare: $(VENV)/installed  ## compare optimizers on real data: prints a table, writes a report (about 3 minutes)
	$(BIN)/python -m experiments compare

test: lint  ## lint, check types, run all tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q

test-quick: lint  ## the same without the tests that are marked slow
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -q -m "not slow" --keep-programs

lint: $(VENV)/installed  ## lint, check formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

format: $(VENV)/installed  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

readme: $(VENV)/installed  ## write the README's table of methods from the catalog
	$(BIN)/python -m experiments.readme

docs: $(VENV)/installed  ## build the documentation: docs/_build/html/index.html
	$(BIN)/python -m sphinx -q -W --keep-going docs docs/_build/html
