# Two commands: `make demo` and `make test`. Everything happens inside .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt

.PHONY: help install demo gallery test lint clean
help:
	@echo "make demo     install into .venv, then train, measure and draw on embedded data (a few minutes)"
	@echo "make gallery  compute and draw all figures at the smoke scale, rebuild docs/gallery.md (some minutes)"
	@echo "make test     install the test extras and run the tests"
	@echo "make lint     ruff and mypy"
	@echo "make clean    remove .venv and what the demo wrote"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(INPUTS) | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e ".[test]"
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt -e ".[lint]"
	@touch $@

install: $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/landscape demo -o demo

# Computes nothing that figures-work/ holds already.
gallery: $(VENV)/.installed
	$(BIN)/landscape figures make all -o figures-out
	$(BIN)/python -m landscape_figures.gallery figures-out docs

test: $(VENV)/.installed-test
	$(BIN)/python -m pytest -n auto

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy landscape cli figures

clean:
	rm -rf $(VENV) demo build *.egg-info
