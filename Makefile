# Helix from a fresh clone: `make chat`, `make test`. Needs Python 3.10 or later, and nothing else.

comma := ,
VENV := .venv
BIN := $(VENV)/bin
CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python3.10 python
SUITS := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))
# Searched only when there is no environment yet. PYTHON=/path/to/python chooses one by hand.
FIND = for p in $(PYTHON) $(CANDIDATES); do if $$p -c "$(SUITS)" >/dev/null 2>&1; then echo $$p; break; fi; done
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=
# Models run on the CPU where there is no Mac's GPU: there the kernels for it are worth having.
CPU := $(if $(filter Linux,$(shell uname -s)),$(comma)cpu)

.DEFAULT_GOAL := help
.PHONY: help chat test test-all test-real lint types clean

help:
	@echo "make chat    talk to a small model (make chat ARGS='--pair qwen3-8b' takes another)"
	@echo "make test    run the tests (make test-all: the slow ones, too)"
	@echo "make test-real   run tests with real models from the package index"
	@echo "make lint    check style"
	@echo "make types   check types"
	@echo "make clean   remove what the others made"

chat: $(VENV)/installed
	@$(BIN)/helix-mlx chat $(ARGS)

test: $(VENV)/installed-test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-all: override ARGS += -m "not real"
test-all: test

# One process: each model is loaded once. What is fetched (340 MB) stays in the user's cache.
test-real: $(VENV)/installed-test
	$(BIN)/python -m pytest -m real tests/real $(ARGS)

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/installed-dev
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are touched last: what broke off is done again.
$(VENV)/python:
	@python=$$($(FIND)); \
	if [ -z "$$python" ]; then \
	  echo "Helix needs Python 3.10 or later with venv, and found none."; \
	  echo "macOS: brew install python   Debian, Ubuntu: apt install python3-venv   or: make PYTHON=/path/to/python"; \
	  exit 1; \
	fi; \
	$$python -m venv $(VENV)
	@touch $@

$(VENV)/installed: pyproject.toml | $(VENV)/python
	@echo "Installing Helix into $(VENV); this happens once and takes a minute or two."
	@$(PIP) --editable ".[gguf$(CPU)]"
	@touch $@

$(VENV)/installed-test: pyproject.toml | $(VENV)/python
	@echo "Installing Helix and its test tools into $(VENV); this happens once and takes a minute or two."
	@$(PIP) --editable ".[test$(CPU)]"
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: pyproject.toml | $(VENV)/python
	@echo "Installing Helix with test tools, ruff and mypy into $(VENV); this happens once."
	@$(PIP) --editable ".[dev$(CPU)]"
	@touch $@ $(VENV)/installed $(VENV)/installed-test
