# Everything runs in .venv, which is made on first use. Needs Python 3.11 or newer and nothing else.

# The first interpreter that starts, is new enough and can make a virtual environment.
CANDIDATES := python3 python3.11 python3.12 python3.13
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	if $$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$p; break; fi; done)

VENV := .venv
BIN := $(VENV)/bin
LOG := $(VENV)/install.log

# $(call install,REQUIREMENT): quiet, and the end of the log when pip fails.
define install
@echo "Installing $(1) into $(VENV); the first time takes some minutes (log: $(LOG))"
@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar off \
	-c constraints.txt -e "$(1)" >$(LOG) 2>&1 || { tail -n 40 $(LOG) >&2; exit 1; }
@touch $@
endef

.PHONY: help demo test test-all lint docs doctest links tutorials clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/.installed-core ## cluster the bundled cells and show the result
	$(BIN)/scgpcl demo --force

test: $(VENV)/.installed-test ## run all tests; ARGS="-k name" passes options to pytest
	$(BIN)/python -m pytest $(ARGS)

# Each interpreter has an environment of its own, .venv-3.12 and so on, with the versions of constraints.txt.
test-all: ## run all tests with every Python from 3.11 to 3.13 that this machine has
	@found=; for v in 3.11 3.12 3.13; do p=; \
		for c in python$$v $$HOME/.pyenv/versions/$$v.*/bin/python; do \
			if $$c -c 'import sys, venv, ensurepip; sys.exit("%d.%d" % sys.version_info[:2] != "'$$v'")' >/dev/null 2>&1; \
			then p=$$c; break; fi; \
		done; \
		test -n "$$p" || { echo "Python $$v: none here, left out"; continue; }; \
		found=1; echo "Python $$v: $$p"; \
		$(MAKE) --no-print-directory test VENV=.venv-$$v PYTHON=$$p ARGS="$(ARGS)" || exit 1; \
	done; test -n "$$found"

lint: $(VENV)/.installed-dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.installed-docs ## build the documentation into docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

doctest: $(VENV)/.installed-test ## run the examples in docstrings
	$(BIN)/python -m pytest --doctest-modules src/scgpcl $(ARGS)

links: $(VENV)/.installed-docs ## check that links of the documentation lead somewhere; needs a network
	$(BIN)/python -m sphinx -b linkcheck docs docs/_build/links

tutorials: $(VENV)/.installed-docs ## run the tutorials and keep their outputs; ARGS=tutorials/NAME.ipynb runs one
	$(BIN)/python tutorials/execute.py $(ARGS)

clean: ## remove build products and caches; .venv stays
	rm -rf build dist docs/_build docs/generated docs/_mathjax docs/tutorials coverage.xml .coverage .coverage.* \
		.hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -path './.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { \
		echo "scgpcl needs Python 3.11 or newer with venv; none found. Install one or pass PYTHON=/path/to/python." >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed-core: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.)

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(call install,.[$*])
